// What the program's self-contained pages share. Called by the reports of demo, compare, data show
// and finetune.
#pragma once

#include <string>
#include <string_view>

#include "base/paths.h"

namespace trestle {

/// Text for HTML, attributes included.
std::string escaped(std::string_view text);

/// What html_head begins: a command may write over its own pages.
OutputKind page_kind();

/// The head with the house's style, and the title as a heading: the page up to its content. It ends
/// with "</html>".
std::string html_head(std::string_view title);

}  // namespace trestle

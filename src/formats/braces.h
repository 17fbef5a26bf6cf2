// Lists of shards as WebDataset's users write them. Called by the webdataset data set.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace trestle {

/// Bash's braces: "a-{08..11}.tar" is a-08.tar to a-11.tar, "{x,y}.tar" two names; several
/// multiply. Digits are filled to the longer bound. A brace without ".." or "," stays as it is.
/// Throws UserError for more than 100,000 names.
std::vector<std::string> expand_braces(std::string_view pattern);

}  // namespace trestle

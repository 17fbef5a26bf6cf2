// What names a picture in JSON, or is one. Called by the reader of conversations and by the data
// sets, whose pictures lie beside them.
#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "chat/chat.h"
#include "chat/keys.h"

namespace trestle {

/// A picture as chat/json.h has it. `place` names one that is bytes and opens the UserError.
ImageRef read_picture(const Json& json, OtherKeys others, const std::string& place);

/// Paths of pictures, with file:// or without; relative ones are below `folder`. Throws UserError
/// for a URL of a kind that is not read.
void find_pictures_in(Conversation& conversation, const std::filesystem::path& folder);

}  // namespace trestle

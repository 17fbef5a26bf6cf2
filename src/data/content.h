// What files hold, as a digest that takes no time beside reading them: the same data may lie
// elsewhere. Called by a run's identity and by validation.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"

namespace trestle {

/// How many blocks of one large file are read.
constexpr size_t kMostBlocksOfFile = 16;

/// Adds a file: its name without the directory, its size, and its bytes, of which a larger file
/// gives `blocks` of 64 KiB spread over it, the end among them.
void add_content(Digest& digest, const std::filesystem::path& path, size_t blocks);

/// SHA-256 of names without directories, sizes, and bytes: small files whole, of large ones blocks
/// spread over them and the end; 64 MiB in all, or one block of each file. Pictures that lie in
/// files of their own are not among them.
std::string content_of(const std::vector<std::filesystem::path>& files);
/// The same of one small file of that name that holds `text`.
std::string content_of_text(const std::string& name, std::string_view text);
/// The same without the names: a file under another one holds the same rows.
std::string content_without_names(const std::vector<std::filesystem::path>& files);

}  // namespace trestle

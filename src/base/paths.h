// What stands at a path, asked before it is opened or written. Called by base/file for every file,
// and by the commands for the paths they are given, before any work.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace trestle {

/// "a regular file", "a directory", "a pipe", "a socket", "a device"; links are followed. Empty
/// where nothing is there or the place may not be looked into. What is written is refused where a
/// link stands that leads nowhere.
std::string_view kind_of(const std::filesystem::path& path);

/// Throws UserError, naming path and kind, unless a regular file is there that may be read. Asks
/// without opening: a pipe would wait for its writer, and a device may act on being opened.
void require_regular_file(const std::filesystem::path& path);
/// Whether a file stands at `path` that may be absent. Throws UserError where the name is taken by
/// anything else, a link that leads nowhere too: what it should say would be lost in silence.
bool has_file(const std::filesystem::path& path);
/// Throws UserError, naming path and kind, where something is there that no file can replace: all
/// but regular files and links to them.
void require_replaceable_file(const std::filesystem::path& path);
/// Throws UserError where a directory cannot appear at `path` by being renamed to it: anything but
/// an empty directory is there, or it is a mount point or the current directory.
void require_replaceable_directory(const std::filesystem::path& path);

/// The files that a command may write over: those it made.
struct OutputKind {
  /// "page": what one is, for messages.
  std::string_view name;
  /// Stands in the first 512 bytes of each.
  std::string mark;
};

/// For a file that `flag` tells a command to write: it can be written there, what is there is empty
/// or of the same kind, and it is none of the command's `inputs` (files or directories; names of
/// the Hub, URLs and empty ones are passed over). In a directory that is read only pages (.html)
/// are replaced, which nothing reads. Throws UserError, or MachineError where the disk refuses.
void require_output_file(const std::filesystem::path& path, std::string_view flag,
                         const OutputKind& kind, const std::vector<std::string>& inputs = {});

/// For a directory that appears whole: as require_replaceable_directory, and it lies neither in a
/// directory of `inputs` nor around one.
void require_new_directory(const std::filesystem::path& path, std::string_view flag,
                           const std::vector<std::string>& inputs = {});

/// For a directory that new files are put into: new or a directory, and not in one of `inputs`.
void require_output_folder(const std::filesystem::path& path, std::string_view flag,
                           const std::vector<std::string>& inputs = {});

}  // namespace trestle

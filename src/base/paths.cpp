#include "base/paths.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/error.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

std::string_view kind_of_mode(mode_t mode) {
  if (S_ISREG(mode)) return "a regular file";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

// "out/" and "out" are one place.
fs::path without_slash(const fs::path& path) {
  return path.has_filename() || !path.has_parent_path() ? path : path.parent_path();
}

// Without links and dots, as far as it exists.
fs::path plain(const fs::path& path) {
  std::error_code error;
  fs::path result = fs::weakly_canonical(fs::absolute(without_slash(path), error), error);
  return without_slash(error ? path : result);
}

bool is_within(const fs::path& path, const fs::path& directory) {
  const fs::path inner = plain(path), outer = plain(directory);
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

bool is_mount_point(const fs::path& path) {
  struct statx info {};
  if (::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT, STATX_TYPE, &info) != 0) return false;
  return (info.stx_attributes & info.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0;
}

// Written through, a link that leads nowhere would make a file in some other place, or none.
void refuse_dangling(const fs::path& path, std::string_view prefix) {
  std::error_code error;
  if (!kind_of(path).empty() || !fs::is_symlink(fs::symlink_status(path, error))) return;
  user_error("{}{} is a link to {}, which is not there; remove the link, or make what it names",
             prefix, path.string(), fs::read_symlink(path, error).string());
}

std::string named_by(std::string_view flag) { return fmt::format("{} ", flag); }

// The disk's answer, asked of the lowest directory that is there: the others are made in it.
void require_room_in(fs::path directory, const fs::path& wanted) {
  std::error_code ignored;
  while (!directory.empty() && !fs::exists(fs::symlink_status(directory, ignored))) {
    directory = directory.parent_path();
  }
  if (directory.empty()) directory = ".";
  refuse_dangling(directory, fmt::format("cannot write {}: ", wanted.string()));
  const bool is_directory = kind_of(directory) == "a directory";
  if (is_directory && ::access(directory.c_str(), W_OK | X_OK) == 0) return;
  machine_error("cannot write {}: {}: {}", wanted.string(), directory.string(),
                std::strerror(is_directory ? errno : ENOTDIR));
}

void require_named(const fs::path& path, std::string_view flag) {
  if (path.empty()) user_error("{} is empty; name a place to write to", flag);
}

void refuse_within(const fs::path& path, std::string_view flag, const std::string& input) {
  if (kind_of(fs::path(input)) == "a directory" && is_within(path, input)) {
    user_error("{} {} lies in {}, which is read; name a place outside of it", flag, path.string(),
               input);
  }
}

// Nobody misses an empty file (mktemp); any other may be the only one of its kind.
void require_own(const fs::path& path, std::string_view flag, const OutputKind& kind) {
  require_regular_file(path);
  std::string start(512, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<size_t>(file.gcount()));
  if (!file.bad() && (start.empty() || start.find(kind.mark) != std::string::npos)) return;
  std::error_code ignored;
  user_error("{} {} has {} bytes and is no {} that trestle wrote; name another file, or remove it",
             flag, path.string(), fs::file_size(path, ignored), kind.name);
}

}  // namespace

std::string_view kind_of(const fs::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? kind_of_mode(info.st_mode) : std::string_view();
}

void require_regular_file(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    user_error("cannot open {}: {}", path.string(), std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) {
    user_error("cannot read {}: it is {}, not a regular file", path.string(),
               kind_of_mode(info.st_mode));
  }
  if (::access(path.c_str(), R_OK) != 0) {
    user_error("cannot open {}: {}", path.string(), std::strerror(errno));
  }
}

bool has_file(const fs::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return false;
    user_error("cannot open {}: {}", path.string(), std::strerror(errno));
  }
  const std::string_view kind = kind_of(path);
  if (kind == "a regular file") return true;
  if (kind.empty()) {
    std::error_code ignored;
    user_error("{} is a link to {}, which leads nowhere; download it again or remove it",
               path.string(), fs::read_symlink(path, ignored).string());
  }
  user_error("{} is {}, not a regular file; download it again or remove it", path.string(), kind);
}

void require_replaceable_file(const fs::path& path) {
  refuse_dangling(path, "cannot write: ");
  const std::string_view kind = kind_of(path);
  if (kind.empty() || kind == "a regular file") return;
  user_error("cannot write {}: it is {}; name a regular file or a new one", path.string(), kind);
}

void require_replaceable_directory(const fs::path& path) {
  refuse_dangling(path, "cannot write: ");
  const std::string_view kind = kind_of(path);
  if (kind.empty()) return;
  if (kind != "a directory") {
    user_error("{} exists and is no directory but {}; name a new one", path.string(), kind);
  }
  std::error_code error;
  const bool is_empty = fs::is_empty(path, error);
  if (error) user_error("{} exists and cannot be looked into: {}", path.string(), error.message());
  if (!is_empty) {
    user_error("{} exists and is not empty; name a new directory or remove it", path.string());
  }
  if (is_within(fs::current_path(error), path)) {
    user_error("{} is the current directory, which cannot be replaced; name a new one in it",
               path.string());
  }
  if (is_mount_point(path)) {
    user_error("{} is a mount point, which cannot be replaced; name a new directory in it",
               path.string());
  }
}

void require_output_file(const fs::path& path, std::string_view flag, const OutputKind& kind,
                         const std::vector<std::string>& inputs) {
  require_named(path, flag);
  if (!path.has_filename() || path.filename() == "." || path.filename() == "..") {
    user_error("{} {} names a directory; name a file", flag, path.string());
  }
  refuse_dangling(path, named_by(flag));
  const std::string_view there = kind_of(path);
  if (!there.empty() && there != "a regular file") {
    user_error("{} {} is {}; name a regular file or a new one", flag, path.string(), there);
  }
  std::error_code ignored;
  for (const std::string& input : inputs) {
    if (fs::equivalent(path, input, ignored)) {
      user_error("{} {} is what {} names to be read; name another file", flag, path.string(),
                 input);
    }
    if (!there.empty() && path.extension() != ".html") refuse_within(path, flag, input);
  }
  if (!there.empty()) require_own(path, flag, kind);
  require_room_in(path.parent_path(), path);
}

void require_new_directory(const fs::path& path, std::string_view flag,
                           const std::vector<std::string>& inputs) {
  require_named(path, flag);
  refuse_dangling(without_slash(path), named_by(flag));
  for (const std::string& input : inputs) {
    refuse_within(path, flag, input);
    if (!kind_of(fs::path(input)).empty() && is_within(input, path)) {
      user_error("{} {} holds {}, which is read; name a new directory", flag, path.string(), input);
    }
  }
  require_replaceable_directory(without_slash(path));
  require_room_in(without_slash(path).parent_path(), path);
}

void require_output_folder(const fs::path& path, std::string_view flag,
                           const std::vector<std::string>& inputs) {
  require_named(path, flag);
  refuse_dangling(without_slash(path), named_by(flag));
  if (const std::string_view kind = kind_of(path); !kind.empty() && kind != "a directory") {
    user_error("{} {} is {}; name a directory", flag, path.string(), kind);
  }
  for (const std::string& input : inputs) refuse_within(path, flag, input);
  require_room_in(without_slash(path), path);
}

}  // namespace trestle

// Processes that the launcher starts and that do not outlive it, and how they ended. Called by the
// supervisor.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace trestle {

/// A file descriptor of its own, above those of the standard streams; -1 is none.
class OwnDescriptor {
 public:
  OwnDescriptor() = default;
  /// Takes it over, or a copy of it above 2.
  explicit OwnDescriptor(int fd);
  ~OwnDescriptor() { close(); }
  OwnDescriptor(OwnDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnDescriptor& operator=(OwnDescriptor&& other) noexcept;

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  void close();

 private:
  int fd_ = -1;
};

struct Pipe {
  OwnDescriptor read, write;
};

/// Closed in what this process starts; its reading end does not block. Throws MachineError.
Pipe make_pipe();

/// A program and its words, argv[0] the first.
struct Program {
  std::string path;
  std::vector<std::string> words;
};

/// The program that runs now, with other words behind its name.
Program this_program(const std::vector<std::string>& words);

/// A process of a group of its own, which the kernel ends as soon as the process that started it is
/// gone. stdin is /dev/null; the others are pipes.
struct Child {
  pid_t pid = -1;
  OwnDescriptor out, err;
};

/// `variables` ("NAME=value") go over those of this process; `cores` are what it is pinned to, if
/// any. Called from the main thread: the child lives no longer than the thread. Throws
/// MachineError, with `what` as the subject, where the system starts no more.
Child start_child(const Program& program, const std::vector<std::string>& variables,
                  const std::vector<int>& cores, const std::string& what);

}  // namespace trestle

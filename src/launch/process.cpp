#include "launch/process.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace trestle {

namespace {

constexpr const char* kThisProgram = "/proc/self/exe";

// What is needed between fork and exec, made before: another thread may have held malloc's lock.
struct Prepared {
  std::vector<std::string> environment;
  std::vector<char*> words, variables;
  std::vector<unsigned long> mask;
  int null = -1, out = -1, err = -1, failed = -1;
  pid_t parent = -1;
  sigset_t signals;
};

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (const std::string& each : texts) out.push_back(const_cast<char*>(each.c_str()));
  out.push_back(nullptr);
  return out;
}

std::vector<std::string> merged_environment(const std::vector<std::string>& variables) {
  std::vector<std::string> out = variables;
  for (char** each = environ; *each != nullptr; ++each) {
    const std::string_view old = *each;
    const std::string_view name = old.substr(0, old.find('=') + 1);
    const bool is_replaced = std::ranges::any_of(
        variables, [&](const std::string& variable) { return variable.starts_with(name); });
    if (!is_replaced) out.emplace_back(old);
  }
  return out;
}

// As sched_setaffinity takes it: a bit a core.
std::vector<unsigned long> mask_of(const std::vector<int>& cores) {
  constexpr size_t kBits = 8 * sizeof(unsigned long);
  std::vector<unsigned long> mask;
  for (const int core : cores) {
    const auto at = static_cast<size_t>(core);
    mask.resize(std::max(mask.size(), at / kBits + 1));
    mask[at / kBits] |= 1UL << (at % kBits);
  }
  return mask;
}

// In the child: calls of the system alone.
[[noreturn]] void become(const Program& program, const Prepared& prepared) {
  const auto give_up = [&] {
    const int why = errno;
    [[maybe_unused]] const ssize_t n = ::write(prepared.failed, &why, sizeof why);
    ::_exit(127);
  };
  ::setpgid(0, 0);
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) give_up();
  if (::getppid() != prepared.parent) ::_exit(127);  // it is gone already
  // This process's handlers are not the child's, nor is what it ignores but for the hang-up of
  // nohup.
  for (const int number : {SIGTERM, SIGINT, SIGPIPE, SIGXFSZ, SIGCHLD}) ::signal(number, SIG_DFL);
  struct sigaction hang_up {};
  ::sigaction(SIGHUP, nullptr, &hang_up);
  if (hang_up.sa_handler != SIG_IGN) ::signal(SIGHUP, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, &prepared.signals, nullptr);
  if (!prepared.mask.empty() &&
      ::sched_setaffinity(0, prepared.mask.size() * sizeof prepared.mask[0],
                          reinterpret_cast<const cpu_set_t*>(prepared.mask.data())) != 0) {
    give_up();
  }
  if (::dup2(prepared.null, STDIN_FILENO) < 0 || ::dup2(prepared.out, STDOUT_FILENO) < 0 ||
      ::dup2(prepared.err, STDERR_FILENO) < 0) {
    give_up();
  }
  ::execve(program.path.c_str(), prepared.words.data(), prepared.variables.data());
  give_up();
  ::_exit(127);
}

// None reaches the child while it still has this process's handlers, which would tell this process.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

  const sigset_t& before() const { return before_; }

 private:
  sigset_t before_ = {};
};

}  // namespace

OwnDescriptor::OwnDescriptor(int fd) : fd_(fd) {
  if (fd < 0 || fd > STDERR_FILENO) return;
  fd_ = ::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  ::close(fd);
}

OwnDescriptor& OwnDescriptor::operator=(OwnDescriptor&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void OwnDescriptor::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Pipe make_pipe() {
  std::array<int, 2> ends = {-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    machine_error("cannot make a pipe: {}; raise the limit (ulimit -n)", std::strerror(errno));
  }
  Pipe pipe{OwnDescriptor(ends[0]), OwnDescriptor(ends[1])};
  ::fcntl(pipe.read.get(), F_SETFL, O_NONBLOCK);
  return pipe;
}

Program this_program(const std::vector<std::string>& words) {
  Program out{.path = kThisProgram, .words = {"trestle"}};
  out.words.insert(out.words.end(), words.begin(), words.end());
  // By its own path, which ps shows, as long as that is still the file that runs.
  std::error_code none;
  const std::filesystem::path path = std::filesystem::read_symlink(kThisProgram, none);
  if (std::filesystem::equivalent(path, kThisProgram, none)) out.path = path;
  return out;
}

Child start_child(const Program& program, const std::vector<std::string>& variables,
                  const std::vector<int>& cores, const std::string& what) {
  Pipe out = make_pipe(), err = make_pipe(), failed = make_pipe();
  ::fcntl(failed.read.get(), F_SETFL, 0);
  const OwnDescriptor null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Prepared prepared;
  prepared.environment = merged_environment(variables);
  prepared.words = pointers(program.words);
  prepared.variables = pointers(prepared.environment);
  prepared.mask = mask_of(cores);
  prepared.null = null.get();
  prepared.out = out.write.get();
  prepared.err = err.write.get();
  prepared.failed = failed.write.get();
  prepared.parent = ::getpid();
  Child child;
  {
    const AllSignalsBlocked blocked;
    prepared.signals = blocked.before();
    child.pid = ::fork();
    if (child.pid == 0) become(program, prepared);
  }
  const int no_process = errno;
  failed.write.close();
  if (child.pid < 0) {
    machine_error(
        "{}: the system starts no more processes ({}); start fewer ranks or raise the "
        "limit (ulimit -u, a container's pids)",
        what, std::strerror(no_process));
  }
  ::setpgid(child.pid, child.pid);  // whichever of the two comes first
  int why = 0;
  ssize_t n = 0;
  do n = ::read(failed.read.get(), &why, sizeof why);
  while (n < 0 && errno == EINTR);
  if (n == sizeof why) {
    ::waitpid(child.pid, nullptr, 0);
    machine_error("{}: cannot start {}: {}", what, program.path, std::strerror(why));
  }
  child.out = std::move(out.read);
  child.err = std::move(err.read);
  return child;
}

}  // namespace trestle

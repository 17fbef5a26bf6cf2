// What the ranks print, on its way to the launcher's own streams: rank 0's as it is, the others'
// line by line to stderr with their number before each, and of a rank that fails its error before
// what follows from it elsewhere. Filled and emptied by the supervisor's poll loop.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "launch/process.h"

namespace trestle {

/// Text on its way to a descriptor, of which no more is written at a time than never blocks.
class Outlet {
 public:
  explicit Outlet(int fd) : fd_(fd) {}

  void add(std::string_view text);
  bool is_empty() const { return waiting_.empty(); }
  /// So much waits that no more should be read.
  bool is_full() const;
  /// Once poll says that it may.
  void write_some();
  int descriptor() const { return fd_; }
  /// Nobody reads it any more: what is added is dropped.
  bool is_unread() const { return unread_; }
  /// The errno of a write that failed otherwise (a full disk), or 0; what did not fit is dropped.
  int error() const { return error_; }

 private:
  int fd_;
  std::string waiting_;
  bool unread_ = false;
  int error_ = 0;
};

/// A line that begins with "trestle: " is the last that a rank has to say (main prints it): it is
/// kept with what follows it until it is known whose error came first.
class Output {
 public:
  using Clock = std::chrono::steady_clock;

  /// Descriptors of the launcher's own stdout and stderr.
  Output(int out, int err) : out_(out), err_(err) {}

  /// Takes over the child's streams.
  void add(int64_t rank, Child& child);
  /// Appends what to poll before work().
  void list(std::vector<pollfd>& polled) const;
  /// Reads and writes what does not block. Where nobody reads a stream any more, the ranks' own are
  /// closed: they hear of it as a single process does.
  void work();
  /// The rank has ended: whoever else holds its pipes is not waited for.
  void finish(int64_t rank);

  /// What is kept of ranks that have gone on for `age` since: no last words.
  void release_older(Clock::duration age);
  /// All that is kept, of `first` before the others', and without what was released before: lines
  /// that several ranks say come once.
  void release(int64_t first);
  /// "trestle: ..." of a rank, or "".
  std::string_view error_of(int64_t rank) const;
  /// The ranks are gone.
  void clear();

  /// A line of the launcher's own.
  void tell(std::string_view line);
  /// Nothing waits to be written.
  bool is_empty() const { return out_.is_empty() && err_.is_empty(); }
  /// Nobody reads stderr any more.
  bool is_unread() const { return err_.is_unread(); }
  /// The errno of a failed write to stdout, or 0.
  int error() const { return out_.error(); }

 private:
  struct Stream {
    OwnDescriptor fd;
    std::string line;  // its end is still to come
  };
  struct Rank {
    int64_t number;
    Stream out, err;
    std::vector<std::string> kept;
    Clock::time_point kept_since = {};
  };

  void read(Rank& rank, Stream& stream, bool all);
  void split(Rank& rank, Stream& stream);
  /// What is left of it without a line end, as a line.
  void end_stream(Rank& rank, Stream& stream);
  void take_line(Rank& rank, const Stream& stream, std::string_view line);
  /// A line, or of rank 0 what there is of it.
  void print(const Rank& rank, std::string_view text);
  /// Ends rank 0's line and prints what waited for that.
  void end_line();
  void close_unread();

  Outlet out_, err_;
  std::deque<Rank> ranks_;
  std::set<std::string> said_;
  /// Since when rank 0 is in the middle of a line of stderr, which nobody else's may enter.
  bool within_line_ = false;
  Clock::time_point within_line_since_ = {};
  std::string behind_line_;
};

/// "[rank 3] "; nothing of rank 0.
std::string rank_prefix(int64_t rank);

}  // namespace trestle

#include "launch/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <regex>

namespace trestle {

namespace {

using namespace std::chrono_literals;

constexpr size_t kFull = 1 << 20;
constexpr size_t kLongestLine = 1 << 16;
constexpr std::string_view kError = "trestle: ";
// Somebody else's line waits for the end of rank 0's for so long.
constexpr auto kWithinLine = 500ms;

bool may_be_error(std::string_view begun) {
  return begun.starts_with(kError) || kError.starts_with(begun);
}

}  // namespace

std::string rank_prefix(int64_t rank) { return rank == 0 ? "" : fmt::format("[rank {}] ", rank); }

void Outlet::add(std::string_view text) {
  if (!unread_) waiting_ += text;
}

bool Outlet::is_full() const { return waiting_.size() > kFull; }

void Outlet::write_some() {
  const size_t size = std::min<size_t>(waiting_.size(), PIPE_BUF);
  const ssize_t n = ::write(fd_, waiting_.data(), size);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (n < 0) {
    unread_ = errno == EPIPE;
    if (!unread_) error_ = errno;
    waiting_.clear();
    return;
  }
  waiting_.erase(0, static_cast<size_t>(n));
}

void Output::add(int64_t rank, Child& child) {
  ranks_.push_back({.number = rank,
                    .out = {std::move(child.out), ""},
                    .err = {std::move(child.err), ""},
                    .kept = {}});
}

void Output::list(std::vector<pollfd>& polled) const {
  for (const Outlet* each : {&out_, &err_}) {
    if (!each->is_empty()) polled.push_back({each->descriptor(), POLLOUT, 0});
  }
  if (out_.is_full() || err_.is_full()) return;
  for (const Rank& rank : ranks_) {
    for (const Stream* each : {&rank.out, &rank.err}) {
      if (each->fd.is_open()) polled.push_back({each->fd.get(), POLLIN, 0});
    }
  }
}

void Output::work() {
  for (Outlet* each : {&out_, &err_}) {
    pollfd polled{each->descriptor(), POLLOUT, 0};
    while (!each->is_empty() && ::poll(&polled, 1, 0) == 1) each->write_some();
  }
  close_unread();
  if (!out_.is_full() && !err_.is_full()) {
    for (Rank& rank : ranks_) {
      read(rank, rank.out, false);
      read(rank, rank.err, false);
    }
  }
  if (within_line_ && !behind_line_.empty() && Clock::now() - within_line_since_ > kWithinLine) {
    err_.add("\n");
    end_line();
  }
}

void Output::close_unread() {
  for (Rank& rank : ranks_) {
    if ((rank.number == 0 ? out_ : err_).is_unread()) rank.out.fd.close();
    if (err_.is_unread()) rank.err.fd.close();
  }
}

void Output::read(Rank& rank, Stream& stream, bool all) {
  std::array<char, 1 << 14> text;
  while (stream.fd.is_open()) {
    const ssize_t n = ::read(stream.fd.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
      stream.fd.close();
      end_stream(rank, stream);
      return;
    }
    const std::string_view got(text.data(), static_cast<size_t>(n));
    if (rank.number == 0 && &stream == &rank.out) {
      out_.add(got);
    } else {
      stream.line += got;
      split(rank, stream);
    }
    if (!all && (out_.is_full() || err_.is_full())) return;
  }
}

void Output::split(Rank& rank, Stream& stream) {
  size_t begin = 0;
  for (size_t end = 0; (end = stream.line.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    take_line(rank, stream, std::string_view(stream.line).substr(begin, end + 1 - begin));
  }
  stream.line.erase(0, begin);
  if (stream.line.empty()) return;
  const bool goes_on =
      rank.number == 0 && rank.kept.empty() && (within_line_ || !may_be_error(stream.line));
  if (goes_on) {
    print(rank, stream.line);
    stream.line.clear();
  } else if (stream.line.size() > kLongestLine) {
    end_stream(rank, stream);
  }
}

void Output::end_stream(Rank& rank, Stream& stream) {
  if (!stream.line.empty()) take_line(rank, stream, stream.line + "\n");
  stream.line.clear();
}

void Output::take_line(Rank& rank, const Stream& stream, std::string_view line) {
  const bool begins = rank.number != 0 || !within_line_;
  const bool is_last = &stream == &rank.err && begins && line.starts_with(kError);
  if (!is_last && rank.kept.empty()) {
    print(rank, line);
    return;
  }
  if (rank.kept.empty()) rank.kept_since = Clock::now();
  rank.kept.emplace_back(line);
}

void Output::print(const Rank& rank, std::string_view text) {
  if (rank.number == 0) {
    err_.add(text);
    within_line_ = true;
    within_line_since_ = Clock::now();
    if (text.ends_with('\n')) end_line();
    return;
  }
  behind_line_ += rank_prefix(rank.number);
  behind_line_ += text;
  if (!within_line_) end_line();
}

void Output::end_line() {
  within_line_ = false;
  err_.add(behind_line_);
  behind_line_.clear();
}

void Output::finish(int64_t number) {
  for (Rank& rank : ranks_) {
    if (rank.number != number) continue;
    for (Stream* each : {&rank.out, &rank.err}) {
      read(rank, *each, true);
      each->fd.close();
      end_stream(rank, *each);
    }
    if (number == 0 && within_line_) {
      err_.add("\n");
      end_line();
    }
  }
}

void Output::release_older(Clock::duration age) {
  for (Rank& rank : ranks_) {
    const bool goes_on = rank.err.fd.is_open();
    if (rank.kept.empty() || !goes_on || Clock::now() - rank.kept_since < age) continue;
    const std::vector<std::string> kept = std::move(rank.kept);
    rank.kept.clear();
    for (const std::string& line : kept) print(rank, line);
  }
}

namespace {

// "trestle: rank 3: ..." as rank 0 says it, which does not name itself.
std::string without_rank(const std::string& line) {
  static const std::regex named(R"(^trestle: rank \d+: )");
  return std::regex_replace(line, named, "trestle: ");
}

}  // namespace

void Output::release(int64_t first) {
  std::ranges::stable_partition(ranks_, [&](const Rank& each) { return each.number == first; });
  const auto says = [](const Rank& rank, const std::string& line) {
    return std::ranges::find(rank.kept, line) != rank.kept.end();
  };
  const auto zero = std::ranges::find(ranks_, 0, &Rank::number);
  for (const Rank& rank : ranks_) {
    for (const std::string& line : rank.kept) {
      const std::string plain = without_rank(line);
      if (!said_.insert(plain).second) continue;
      const bool is_of_all = zero != ranks_.end() && says(*zero, plain);
      print(is_of_all ? *zero : rank, is_of_all ? plain : line);
    }
  }
  for (Rank& rank : ranks_) rank.kept.clear();
}

std::string_view Output::error_of(int64_t number) const {
  const auto rank = std::ranges::find(ranks_, number, &Rank::number);
  if (rank == ranks_.end() || rank->kept.empty()) return "";
  return rank->kept.front();
}

void Output::clear() {
  ranks_.clear();
  said_.clear();
}

void Output::tell(std::string_view line) {
  if (within_line_) err_.add("\n");
  err_.add(line);
  err_.add("\n");
  end_line();
}

}  // namespace trestle

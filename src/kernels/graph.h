// A card's work, captured once and replayed in one call (CUDA graphs): what decoding a token is
// made of. Called by the generator's decode step.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>

namespace trestle {

class Graph {
 public:
  Graph();
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// Whether this build can capture what is put on `device`: one with CUDA and its toolkit.
  static bool can_capture(c10::Device device);

  /// Takes down what `work` puts on the current stream, which is not the card's first, and does
  /// none of it. Memory that it asks for stays the graph's. Once.
  void capture(const std::function<void()>& work);
  bool is_captured() const { return captured_; }
  /// Puts all of it on the current stream.
  void replay();

 private:
  struct Captured;

  std::unique_ptr<Captured> graph_;
  bool captured_ = false;
};

}  // namespace trestle

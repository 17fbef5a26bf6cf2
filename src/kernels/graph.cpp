#include "kernels/graph.h"

#include <c10/util/Exception.h>

// Where the kernels are compiled there is a toolkit, whose headers libtorch's need.
#ifdef TRESTLE_CUDA_KERNELS
#include <ATen/cuda/CUDAGraph.h>
#endif

namespace trestle {

#ifdef TRESTLE_CUDA_KERNELS
struct Graph::Captured {
  at::cuda::CUDAGraph graph;
};

bool Graph::can_capture(c10::Device device) { return device.is_cuda(); }

void Graph::capture(const std::function<void()>& work) {
  TORCH_CHECK(!graph_, "a graph is captured once");
  graph_ = std::make_unique<Captured>();
  graph_->graph.capture_begin();
  work();
  graph_->graph.capture_end();
  captured_ = true;
}

void Graph::replay() {
  TORCH_CHECK(captured_, "nothing is captured");
  graph_->graph.replay();
}
#else
struct Graph::Captured {};

bool Graph::can_capture(c10::Device) { return false; }

void Graph::capture(const std::function<void()>&) {
  TORCH_CHECK(false, "this build captures no graphs");
}

void Graph::replay() { TORCH_CHECK(captured_, "nothing is captured"); }
#endif

Graph::Graph() = default;
Graph::~Graph() = default;

}  // namespace trestle

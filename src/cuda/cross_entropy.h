// Cross entropy of a block of logits on a card, and its gradient in their place: the middle of
// model/chunked_loss.h.
#pragma once

#include "cuda/call.h"

namespace trestle::cuda {

/// logits [rows, columns] and targets [rows] -> losses [rows] = -log softmax(logits)[target]; with
/// `gradient` the logits become softmax(logits) - onehot(target). A row whose target is below 0 is
/// ignored: its loss and gradient are 0. A target past the last column, and a row with a NaN, an
/// infinity or no finite logit, give NaN. Where they are not null, largest and sums [rows] become
/// what softmax is made with: exp(logit - largest) / sum; of an ignored row 0 and 1.
struct CrossEntropy {
  Type type = Type::kFloat;
  int64_t rows = 0, columns = 0;
  void* logits = nullptr;
  const int64_t* targets = nullptr;
  float *losses = nullptr, *largest = nullptr, *sums = nullptr;
  bool gradient = false;
};
int cross_entropy(const CrossEntropy& args, Stream stream);

}  // namespace trestle::cuda

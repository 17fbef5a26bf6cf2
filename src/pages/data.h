// Samples of a data set as one self-contained HTML page. Called by `trestle data show`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "data/datasets.h"
#include "data/processor.h"

namespace trestle {

/// The first `rows`: every picture at the size that the model gets, with the grid of its tokens;
/// every token, coloured where it is learnt, struck out where it lies behind `seq_length`. A row
/// that cannot be used says why.
std::string data_page(const Dataset& dataset, const Processor& processor, int64_t rows,
                      int64_t seq_length, std::string_view title);

}  // namespace trestle

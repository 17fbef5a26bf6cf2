// Pictures by name: a path, an http(s) URL or a data: URI. Called wherever a user or a data set
// names an image.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "image/image.h"

namespace trestle {

struct FetchLimits {
  uint64_t max_bytes = 64ull << 20;
  std::chrono::milliseconds connect_timeout{10'000};
  /// For the whole transfer.
  std::chrono::milliseconds timeout{60'000};
  long max_redirects = 5;
};

/// The body behind an http or https URL; redirects stay within the two. Throws UserError with the
/// URL and what went wrong: the HTTP status, the limit, the transport's reason.
std::string fetch_url(const std::string& url, const FetchLimits& limits = {});

/// decode_image of what `source` names; see there for the shape and the errors.
at::Tensor load_image(const std::string& source, const ImageOptions& options = {},
                      const FetchLimits& limits = {});

}  // namespace trestle

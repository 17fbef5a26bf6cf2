// Pictures by name: a path, a file: or http(s) URL or a data: URI. Called wherever a user or a data
// set names an image.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
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

/// The path that `source` names, below `folder` where it is relative; of file:///a/b.png and
/// file://localhost/a/b.png it is /a/b.png. Nothing for an http(s) URL and a data: URI. A colon in
/// a file's name makes no URL of it. The path of a file: URL is taken as it stands, as
/// mistral-common takes it, and with its %20 decoded where there is no such file. Throws UserError
/// for a URL of another kind.
std::optional<std::filesystem::path> path_of_source(const std::string& source,
                                                    const std::filesystem::path& folder = {});

/// decode_image of what `source` names; see there for the shape and the errors.
at::Tensor load_image(const std::string& source, const ImageOptions& options = {},
                      const FetchLimits& limits = {});

}  // namespace trestle

// SHA-1 and SHA-256 of bytes as they come, by OpenSSL. Called by the Hub client.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace trestle {

class Digest {
 public:
  enum class Kind { kSha1, kSha256 };

  /// Throws MachineError when OpenSSL refuses the algorithm.
  explicit Digest(Kind kind);

  void update(std::string_view bytes);
  /// Of all bytes so far, in lower-case hex; nothing may be added afterwards.
  std::string hex();

 private:
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

}  // namespace trestle

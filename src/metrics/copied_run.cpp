#include "metrics/copied_run.h"

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace trestle {
namespace fs = std::filesystem;

std::string kept_id(const fs::path& file) {
  if (!is_there(file)) return {};
  const std::string text = read_text(file, 16 << 10);
  return std::string(trimmed(std::string_view(text).substr(0, text.find('\n'))));
}

std::optional<fs::path> original_of(const fs::path& save, const fs::path& began_in,
                                    std::string_view id_name) {
  std::error_code error;
  if (began_in.empty() || fs::equivalent(began_in, save, error)) return std::nullopt;
  try {
    const std::string id = kept_id(began_in / id_name);
    if (id.empty() || id != kept_id(save / id_name)) return std::nullopt;
  } catch (const UserError&) {
    return std::nullopt;
  }
  return began_in;
}

}  // namespace trestle

#include "metrics/crc.h"

#include <array>

namespace trestle {

namespace {

using Table = std::array<uint32_t, 256>;

// Of every byte, for a polynomial with its bits reversed.
constexpr Table table_of(uint32_t polynomial) {
  Table table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? polynomial : 0);
    table[byte] = value;
  }
  return table;
}

constexpr Table kIeee = table_of(0xedb88320), kCastagnoli = table_of(0x82f63b78);

uint32_t crc_of(const Table& table, std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ table[(crc ^ static_cast<unsigned char>(c)) & 255];
  return ~crc;
}

}  // namespace

uint32_t crc32(std::string_view bytes) { return crc_of(kIeee, bytes); }

uint32_t crc32c(std::string_view bytes) { return crc_of(kCastagnoli, bytes); }

}  // namespace trestle

#include "metrics/protobuf.h"

#include <bit>

namespace trestle {

namespace {

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

}  // namespace

std::string little_endian(uint64_t value, int size) {
  std::string out;
  for (int i = 0; i < size; ++i) out += static_cast<char>(value >> (8 * i) & 255);
  return out;
}

ProtoMessage& ProtoMessage::varint(uint32_t field, uint64_t value) {
  tag(field, kVarint);
  append_varint(value);
  return *this;
}

ProtoMessage& ProtoMessage::fixed64(uint32_t field, double value) {
  tag(field, kFixed64);
  bytes_ += little_endian(std::bit_cast<uint64_t>(value), 8);
  return *this;
}

ProtoMessage& ProtoMessage::fixed32(uint32_t field, float value) {
  tag(field, kFixed32);
  bytes_ += little_endian(std::bit_cast<uint32_t>(value), 4);
  return *this;
}

ProtoMessage& ProtoMessage::text(uint32_t field, std::string_view value) {
  tag(field, kLengthDelimited);
  append_varint(value.size());
  bytes_ += value;
  return *this;
}

ProtoMessage& ProtoMessage::message(uint32_t field, const ProtoMessage& value) {
  return text(field, value.bytes_);
}

void ProtoMessage::tag(uint32_t field, uint32_t wire_type) {
  append_varint(static_cast<uint64_t>(field) << 3 | wire_type);
}

void ProtoMessage::append_varint(uint64_t value) {
  for (; value > 127; value >>= 7) bytes_ += static_cast<char>((value & 127) | 128);
  bytes_ += static_cast<char>(value);
}

}  // namespace trestle

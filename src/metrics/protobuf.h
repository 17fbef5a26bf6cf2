// Protocol Buffers' wire format, writing only: enough for messages whose fields are known by
// number. Called by the writers of TensorBoard and W&B files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace trestle {

/// One message, field by field; each call returns the message itself, so that a message reads as
/// one expression. Field numbers are those of the .proto file
/// (https://protobuf.dev/programming-guides/encoding).
class ProtoMessage {
 public:
  /// int32, int64, uint64, bool, enum.
  ProtoMessage& varint(uint32_t field, uint64_t value);
  /// double.
  ProtoMessage& fixed64(uint32_t field, double value);
  /// float.
  ProtoMessage& fixed32(uint32_t field, float value);
  /// string, bytes.
  ProtoMessage& text(uint32_t field, std::string_view value);
  ProtoMessage& message(uint32_t field, const ProtoMessage& value);

  const std::string& bytes() const { return bytes_; }

 private:
  void tag(uint32_t field, uint32_t wire_type);
  void append_varint(uint64_t value);

  std::string bytes_;
};

/// `value` as `size` bytes, lowest first.
std::string little_endian(uint64_t value, int size);

}  // namespace trestle

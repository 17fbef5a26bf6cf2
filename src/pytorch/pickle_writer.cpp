#include "pytorch/pickle_writer.h"

#include <c10/util/Exception.h>

#include <bit>
#include <limits>
#include <utility>

namespace trestle {

namespace {

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

}  // namespace

PickleWriter::PickleWriter() : out_("\x80\x02") {}

PickleWriter& PickleWriter::op(char code) {
  out_ += code;
  return *this;
}

PickleWriter& PickleWriter::none() { return op('N'); }

PickleWriter& PickleWriter::boolean(bool value) { return op(value ? '\x88' : '\x89'); }

PickleWriter& PickleWriter::integer(int64_t value) {
  if (value >= std::numeric_limits<int32_t>::min() &&
      value <= std::numeric_limits<int32_t>::max()) {
    op('J');
    put(out_, static_cast<int32_t>(value));
  } else {
    op('\x8a').op(8);
    put(out_, value);
  }
  return *this;
}

PickleWriter& PickleWriter::real(double value) {
  op('G');
  put(out_, __builtin_bswap64(std::bit_cast<uint64_t>(value)));
  return *this;
}

PickleWriter& PickleWriter::string(std::string_view value) {
  TORCH_CHECK(value.size() <= std::numeric_limits<uint32_t>::max(), "a string of over 4 GiB");
  op('X');
  put(out_, static_cast<uint32_t>(value.size()));
  out_ += value;
  return *this;
}

PickleWriter& PickleWriter::global(std::string_view module, std::string_view name) {
  op('c');
  out_.append(module).append("\n").append(name).append("\n");
  return *this;
}

PickleWriter& PickleWriter::integers(std::span<const int64_t> values) {
  mark();
  for (const int64_t value : values) integer(value);
  return tuple();
}

PickleWriter& PickleWriter::json(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return none();
    case Json::value_t::boolean:
      return boolean(value.get<bool>());
    case Json::value_t::number_unsigned:
      TORCH_CHECK(value.get<uint64_t>() <= std::numeric_limits<int64_t>::max(),
                  "integer too large");
      [[fallthrough]];
    case Json::value_t::number_integer:
      return integer(value.get<int64_t>());
    case Json::value_t::number_float:
      return real(value.get<double>());
    case Json::value_t::string:
      return string(value.get_ref<const std::string&>());
    case Json::value_t::array:
      empty_list().mark();
      for (const Json& item : value) json(item);
      return appends();
    case Json::value_t::object:
      empty_dict().mark();
      for (const auto& [key, item] : value.items()) string(key).json(item);
      return set_items();
    default:
      TORCH_CHECK(false, "no pickle for JSON of type ", value.type_name());
  }
}

PickleWriter& PickleWriter::new_object(std::string_view module, std::string_view name) {
  global(module, name);
  return empty_tuple().op('\x81');
}

std::string PickleWriter::finish() {
  op('.');
  return std::exchange(out_, {});
}

}  // namespace trestle

#include "pytorch/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/text.h"
#include "pytorch/pickle_opcodes.h"
#include "pytorch/torch_dtype.h"

namespace trestle {

namespace op = pickle_op;
using Kind = PickleValue::Kind;

namespace {

// `_codecs.encode(text, "latin1")` is how protocol 2 spells bytes.
std::string latin1_of_utf8(std::string_view text, bool& fits) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto lead = static_cast<uint8_t>(text[i]);
    if (lead < 0x80) {
      out += text[i];
    } else if (lead <= 0xc3) {
      out += static_cast<char>(((lead & 3) << 6) | (static_cast<uint8_t>(text[++i]) & 0x3f));
    } else {
      fits = false;
      return {};
    }
  }
  return out;
}

std::string printable(std::string_view text) {
  std::string out(text.substr(0, 120));
  std::ranges::replace_if(
      out, [](unsigned char c) { return c < 0x20 || c >= 0x7f; }, '?');
  return out;
}

}  // namespace

class PickleReader {
 public:
  PickleReader(Pickle& out, std::span<const std::byte> bytes,
               std::span<const std::string_view> allowed, const std::string& what,
               PickleLimits limits)
      : values_(out.values_), in_(bytes), allowed_(allowed), what_(what), limits_(limits) {}

  const PickleValue* read() {
    if (in_.size() < 2 || u8() != op::kProto) fail("it does not start with a protocol number");
    const int protocol = u8();
    if (protocol < 2 || protocol > 5) fail(fmt::format("protocol {}; 2 to 5 are read", protocol));
    while (true) {
      const uint8_t code = u8();
      if (code == op::kStop) break;
      step(code);
    }
    if (stack_.size() != 1 || !marks_.empty()) fail("it ends with a disordered stack");
    return stack_.back();
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    user_error("{}: bad pickle at byte {}: {}", what_, at_, why);
  }

  // Input.
  std::string_view take(uint64_t size) {
    if (size > in_.size() - at_) {
      fail(fmt::format("{} more bytes are announced, {} are left", size, in_.size() - at_));
    }
    const char* start = reinterpret_cast<const char*>(in_.data()) + at_;
    at_ += size;
    return {start, static_cast<size_t>(size)};
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  uint8_t u8() { return number<uint8_t>(); }
  std::string_view line() {
    const std::string_view rest(reinterpret_cast<const char*>(in_.data()) + at_, in_.size() - at_);
    const size_t end = rest.find('\n');
    if (end == std::string_view::npos) fail("a name without an end");
    at_ += end + 1;
    return rest.substr(0, end);
  }

  // Memory.
  void charge(size_t bytes) {
    memory_ += bytes;
    if (memory_ > limits_.memory) {
      fail(fmt::format("it needs more than the {} bytes of memory allowed for it", limits_.memory));
    }
  }
  PickleValue* make(Kind kind) {
    charge(sizeof(PickleValue));
    PickleValue& value = values_.emplace_back();
    value.kind = kind;
    return &value;
  }
  PickleValue* make_text(Kind kind, std::string_view text) {
    if (kind == Kind::kString && !is_utf8(text)) fail("a string is not UTF-8");
    charge(text.size());
    PickleValue* value = make(kind);
    value->text = text;
    return value;
  }
  PickleValue* make_int(Kind kind, int64_t integer) {
    PickleValue* value = make(kind);
    value->integer = integer;
    return value;
  }
  void add(PickleValue* parent, const PickleValue* child) {
    charge(sizeof(child));
    if (child->depth + 1 > limits_.depth) {
      fail(fmt::format("values nested deeper than {} levels", limits_.depth));
    }
    parent->depth = std::max<uint16_t>(parent->depth, child->depth + 1);
    parent->items.push_back(child);
  }

  // Stack.
  void push(PickleValue* value) {
    charge(sizeof(value));
    stack_.push_back(value);
  }
  PickleValue* pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("it takes from an empty stack");
    PickleValue* value = stack_.back();
    stack_.pop_back();
    memory_ -= sizeof(value);
    return value;
  }
  PickleValue* top() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("it reads an empty stack");
    return stack_.back();
  }
  std::vector<PickleValue*> pop_to_mark() {
    if (marks_.empty()) fail("a missing mark");
    const size_t mark = marks_.back();
    marks_.pop_back();
    std::vector<PickleValue*> values(stack_.begin() + static_cast<ptrdiff_t>(mark), stack_.end());
    stack_.resize(mark);
    memory_ -= values.size() * sizeof(values[0]);
    return values;
  }
  PickleValue* container(std::initializer_list<Kind> kinds) {
    PickleValue* value = top();
    if (std::ranges::find(kinds, value->kind) == kinds.end()) {
      fail(fmt::format("items added to a {}", value->kind_name()));
    }
    return value;
  }

  void put(uint64_t index) {
    // Pickle numbers its memo without gaps, so an index beyond the input is a lie.
    if (index >= in_.size()) {
      fail(fmt::format("memo entry {} in a pickle of {} bytes", index, in_.size()));
    }
    if (index >= memo_.size()) {
      charge((index + 1 - memo_.size()) * sizeof(memo_[0]));
      memo_.resize(index + 1);
    }
    memo_[index] = top();
  }
  void get(uint64_t index) {
    if (index >= memo_.size() || !memo_[index]) fail(fmt::format("no memo entry {}", index));
    push(memo_[index]);
  }

  void global(std::string_view module, std::string_view name) {
    const std::string full = fmt::format("{}.{}", module, name);
    const bool is_dtype = full.starts_with("torch.") && dtype_of_name(full);
    if (!is_dtype && std::ranges::find(allowed_, full) == allowed_.end()) {
      user_error(
          "{}: the pickle names {}, which is no part of the checkpoint format; nothing was run",
          what_, printable(full));
    }
    push(make_text(Kind::kGlobal, full));
  }
  void stack_global() {
    const PickleValue* name = pop();
    const PickleValue* module = pop();
    if (name->kind != Kind::kString || module->kind != Kind::kString)
      fail("a name that is no string");
    global(module->text, name->text);
  }

  // A call is recorded, not made. The few whose result is plain data are replaced by that data.
  void call(const PickleValue* callable, const PickleValue* arguments) {
    if (callable->kind != Kind::kGlobal || arguments->kind != Kind::kTuple) {
      fail(fmt::format("a {} is called with a {}; nothing was run", callable->kind_name(),
                       arguments->kind_name()));
    }
    const std::string& name = callable->text;
    const auto& given = arguments->items;
    const auto only_sequence = [&]() -> const PickleValue* {
      const bool fits =
          given.size() == 1 && (given[0]->kind == Kind::kList || given[0]->kind == Kind::kTuple);
      return fits ? given[0] : nullptr;
    };
    if (name == "collections.OrderedDict" && given.empty()) return push(make(Kind::kDict));
    if (name == "torch.Size") {
      if (const PickleValue* list = only_sequence()) return push(copy_items(Kind::kTuple, *list));
    }
    if (name == "__builtin__.set" || name == "builtins.set" || name == "builtins.frozenset" ||
        name == "__builtin__.frozenset") {
      if (const PickleValue* list = only_sequence()) return push(copy_items(Kind::kSet, *list));
    }
    if (name == "_codecs.encode" && given.size() == 2 && given[0]->kind == Kind::kString &&
        given[1]->kind == Kind::kString && given[1]->text == "latin1") {
      bool fits = true;
      const std::string bytes = latin1_of_utf8(given[0]->text, fits);
      if (fits) return push(make_text(Kind::kBytes, bytes));
    }
    PickleValue* object = make(Kind::kObject);
    add(object, callable);
    add(object, arguments);
    push(object);
  }
  PickleValue* copy_items(Kind kind, const PickleValue& from) {
    PickleValue* value = make(kind);
    for (const PickleValue* item : from.items) add(value, item);
    return value;
  }

  void build() {
    const PickleValue* state = pop();
    PickleValue* object = top();
    if (object->kind != Kind::kObject || object->items.size() != 2) {
      fail(fmt::format("a state given to a {}", object->kind_name()));
    }
    add(object, state);
  }

  void tuple(size_t count) {
    PickleValue* value = make(Kind::kTuple);
    std::vector<PickleValue*> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    for (const PickleValue* item : items) add(value, item);
    push(value);
  }

  void long_integer(uint64_t size) {
    const std::string_view digits = take(size);
    if (digits.size() > 8) return push(make_text(Kind::kBigInt, digits));
    // Two's complement: the sign is that of the last byte.
    uint64_t value = !digits.empty() && (digits.back() & 0x80) ? ~uint64_t{0} : 0;
    std::memcpy(&value, digits.data(), digits.size());
    push(make_int(Kind::kInt, static_cast<int64_t>(value)));
  }

  void append_all(std::initializer_list<Kind> kinds) {
    const std::vector<PickleValue*> items = pop_to_mark();
    PickleValue* value = container(kinds);
    if (value->kind == Kind::kDict && items.size() % 2 != 0) fail("a key without a value");
    for (const PickleValue* item : items) add(value, item);
  }

  void step(uint8_t code) {
    switch (code) {
      case op::kMark:
        charge(sizeof(marks_[0]));
        marks_.push_back(stack_.size());
        return;
      case op::kPop:
        pop();
        return;
      case op::kPopMark:
        pop_to_mark();
        return;
      case op::kDup:
        return push(top());
      case op::kFrame:
        if (const auto size = number<uint64_t>(); size > in_.size() - at_) {
          fail(fmt::format("a frame of {} bytes, {} are left", size, in_.size() - at_));
        }
        return;

      case op::kNone:
        return push(make(Kind::kNone));
      case op::kNewTrue:
      case op::kNewFalse:
        return push(make_int(Kind::kBool, code == op::kNewTrue));
      case op::kBinInt:
        return push(make_int(Kind::kInt, number<int32_t>()));
      case op::kBinInt1:
        return push(make_int(Kind::kInt, u8()));
      case op::kBinInt2:
        return push(make_int(Kind::kInt, number<uint16_t>()));
      case op::kLong1:
        return long_integer(u8());
      case op::kLong4:
        return long_integer(number<uint32_t>());
      case op::kBinFloat: {
        PickleValue* value = make(Kind::kFloat);
        value->number = std::bit_cast<double>(__builtin_bswap64(number<uint64_t>()));
        return push(value);
      }

      case op::kShortBinUnicode:
        return push(make_text(Kind::kString, take(u8())));
      case op::kBinUnicode:
        return push(make_text(Kind::kString, take(number<uint32_t>())));
      case op::kBinUnicode8:
        return push(make_text(Kind::kString, take(number<uint64_t>())));
      case op::kShortBinString:
      case op::kShortBinBytes:
        return push(make_text(Kind::kBytes, take(u8())));
      case op::kBinString:
      case op::kBinBytes:
        return push(make_text(Kind::kBytes, take(number<uint32_t>())));
      case op::kBinBytes8:
      case op::kByteArray8:
        return push(make_text(Kind::kBytes, take(number<uint64_t>())));

      case op::kEmptyTuple:
        return push(make(Kind::kTuple));
      case op::kEmptyList:
        return push(make(Kind::kList));
      case op::kEmptyDict:
        return push(make(Kind::kDict));
      case op::kEmptySet:
        return push(make(Kind::kSet));
      case op::kTuple1:
      case op::kTuple2:
      case op::kTuple3:
        return tuple(code - op::kTuple1 + 1);
      case op::kTuple:
      case op::kFrozenSet: {
        const std::vector<PickleValue*> items = pop_to_mark();
        PickleValue* value = make(code == op::kTuple ? Kind::kTuple : Kind::kSet);
        for (const PickleValue* item : items) add(value, item);
        return push(value);
      }
      case op::kAppend: {
        const PickleValue* item = pop();
        return add(container({Kind::kList}), item);
      }
      case op::kAppends:
        return append_all({Kind::kList});
      case op::kAddItems:
        return append_all({Kind::kSet});
      case op::kSetItem: {
        const PickleValue* value = pop();
        const PickleValue* key = pop();
        PickleValue* dict = container({Kind::kDict});
        add(dict, key);
        return add(dict, value);
      }
      case op::kSetItems:
        return append_all({Kind::kDict});

      case op::kBinPut:
        return put(u8());
      case op::kLongBinPut:
        return put(number<uint32_t>());
      case op::kMemoize:
        return put(memo_.size());
      case op::kBinGet:
        return get(u8());
      case op::kLongBinGet:
        return get(number<uint32_t>());

      case op::kGlobal: {
        const std::string_view module = line();
        return global(module, line());
      }
      case op::kStackGlobal:
        return stack_global();
      case op::kReduce:
      case op::kNewObj: {
        const PickleValue* arguments = pop();
        return call(pop(), arguments);
      }
      case op::kNewObjEx: {
        const PickleValue* keywords = pop();
        const PickleValue* arguments = pop();
        if (keywords->kind != Kind::kDict || !keywords->items.empty()) fail("keyword arguments");
        return call(pop(), arguments);
      }
      case op::kBuild:
        return build();
      case op::kBinPersId: {
        const PickleValue* id = pop();
        PickleValue* value = make(Kind::kPersistent);
        add(value, id);
        return push(value);
      }
      default:
        fail(fmt::format("operation 0x{:02x} is not part of the format; nothing was run", code));
    }
  }

  std::deque<PickleValue>& values_;
  std::span<const std::byte> in_;
  size_t at_ = 0;
  std::span<const std::string_view> allowed_;
  const std::string& what_;
  PickleLimits limits_;
  size_t memory_ = 0;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;
  std::vector<PickleValue*> memo_;
};

Pickle::Pickle(std::span<const std::byte> bytes, std::span<const std::string_view> allowed,
               const std::string& what, PickleLimits limits) {
  root_ = PickleReader(*this, bytes, allowed, what, limits).read();
}

}  // namespace trestle

// One logical type, several of Arrow's layouts: each is read as the plain one.
#include <arrow/api.h>
#include <arrow/extension/json.h>
#include <arrow/io/file.h>
#include <arrow/json/from_string.h>
#include <gtest/gtest.h>
#include <parquet/arrow/writer.h>

#include "errors.h"
#include "parquet/arrow_layouts.h"
#include "parquet/parquet.h"
#include "parquet/parquet_store.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using Type = std::shared_ptr<arrow::DataType>;

/// A file of one column `c`, or of several.
class Layouts : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::vector<std::pair<std::string, Type>>& columns,
                              const std::vector<std::string>& values) {
    arrow::FieldVector fields;
    arrow::ArrayVector arrays;
    for (size_t i = 0; i < columns.size(); ++i) {
      fields.push_back(arrow::field(columns[i].first, columns[i].second));
      arrays.push_back(array(columns[i].second, values[i]));
    }
    return write(arrow::Table::Make(arrow::schema(fields), arrays));
  }

  std::filesystem::path write(const std::shared_ptr<arrow::Table>& table) {
    const std::filesystem::path path = folder_ / "layouts.parquet";
    auto file = arrow::io::FileOutputStream::Open(path.string()).ValueOrDie();
    const auto properties = parquet::ArrowWriterProperties::Builder().store_schema()->build();
    const arrow::Status status =
        parquet::arrow::WriteTable(*table, arrow::default_memory_pool(), file, kRowsOfGroup,
                                   parquet::default_writer_properties(), properties);
    EXPECT_TRUE(status.ok()) << status.ToString();
    EXPECT_TRUE(file->Close().ok());
    return path;
  }

  static std::shared_ptr<arrow::Array> array(const Type& type, const std::string& values) {
    return arrow::json::ArrayFromJSONString(type, values).ValueOrDie();
  }

  // The rows of a column as JSON.
  Json rows(const Type& type, const std::string& values) {
    const std::filesystem::path path = write({{"c", type}}, {values});
    const ParquetFile file(path, {"c"});
    Json out = Json::array();
    for (int64_t row = 0; row < file.rows(); ++row) out.push_back(file.row(row).value(0));
    // The same from a group that has been put out to a file: the first, by the last.
    const auto store = std::make_shared<GroupStore>(0, folder_.path(), 0);
    const ParquetFile again(path, {"c"}, store);
    EXPECT_EQ(again.row(0).value(0), out[0]);
    EXPECT_EQ(again.row(file.rows() - 1).value(0), out.back());
    for (int64_t row = 0; row < file.rows(); ++row) {
      EXPECT_EQ(again.row(row).value(0), out[static_cast<size_t>(row)]) << type->ToString();
    }
    EXPECT_EQ(store->spilled(), file.rows() > kRowsOfGroup ? 1 : 0) << type->ToString();
    return out;
  }

  static constexpr int64_t kRowsOfGroup = 2;
  const trestle::testing::TempDir folder_;
};

TEST_F(Layouts, OfTexts) {
  const char* text = R"(["a", null, "ein längerer Text als zwölf Bytes"])";
  for (const Type& type : {arrow::utf8(), arrow::large_utf8(), arrow::utf8_view(),
                           arrow::dictionary(arrow::int32(), arrow::utf8()),
                           arrow::dictionary(arrow::int8(), arrow::large_utf8())}) {
    EXPECT_EQ(rows(type, text), Json::parse(text)) << type->ToString();
  }
}

TEST_F(Layouts, OfBytes) {
  for (const Type& type : {arrow::binary(), arrow::large_binary(), arrow::binary_view(),
                           arrow::fixed_size_binary(3)}) {
    const ParquetFile file(write({{"c", type}}, {R"(["abc", null])"}), {"c"});
    EXPECT_EQ(file.row(0).bytes(0), "abc") << type->ToString();
    EXPECT_FALSE(file.row(1).bytes(0));
    EXPECT_EQ(file.row(0).value(0), Json::binary({'a', 'b', 'c'})) << type->ToString();
  }
}

TEST_F(Layouts, OfLists) {
  const char* lists = R"([["a", "b"], null, ["c", null]])";
  for (const Type& type :
       {arrow::list(arrow::utf8()), arrow::large_list(arrow::utf8_view()),
        arrow::list_view(arrow::utf8()), arrow::large_list_view(arrow::large_utf8()),
        arrow::fixed_size_list(arrow::utf8(), 2)}) {
    EXPECT_EQ(rows(type, lists), Json::parse(lists)) << type->ToString();
  }
}

// The fields of a list of structs, as the named data sets read them.
TEST_F(Layouts, OfListsOfStructs) {
  // Arrow 26 writes no views in lists; data/polars has files of a writer that does.
  for (const Type& bytes : {arrow::binary(), arrow::large_binary()}) {
    const Type item =
        arrow::struct_({arrow::field("bytes", bytes), arrow::field("n", arrow::uint8())});
    for (const Type& type : {arrow::list(item), arrow::large_list(item), arrow::list_view(item),
                             arrow::large_list_view(item), arrow::fixed_size_list(item, 2)}) {
      SCOPED_TRACE(type->ToString());
      const char* values = R"([[{"bytes": "x", "n": 1}, {"bytes": null, "n": 2}], null,
                               [{"bytes": "y", "n": 3}, {"bytes": "z", "n": 4}]])";
      const ParquetFile file(write({{"c", type}}, {values}), {"c[].bytes"});
      using Items = std::vector<std::optional<std::string_view>>;
      EXPECT_EQ(file.row(0).list(0), (Items{"x", std::nullopt}));
      EXPECT_EQ(file.row(1).list(0), Items{});
      EXPECT_EQ(file.row(2).list(0), (Items{"y", "z"}));
    }
  }
  EXPECT_REFUSED(ParquetFile(write({{"c", arrow::utf8()}}, {R"(["a"])"}), {"c[].bytes"}),
                 "has no column c[].bytes");
}

TEST_F(Layouts, OfNumbers) {
  for (const Type& type : {arrow::uint8(), arrow::uint16(), arrow::uint32(), arrow::uint64(),
                           arrow::int8(), arrow::int64(), arrow::decimal128(20, 0)}) {
    const std::string values =
        type->id() == arrow::Type::DECIMAL128 ? R"(["7", null])" : "[7, null]";
    EXPECT_EQ(rows(type, values), Json::parse("[7, null]")) << type->ToString();
  }
  EXPECT_EQ(rows(arrow::uint64(), "[18446744073709551615]"), Json::parse("[18446744073709551615]"));
  for (const Type& type : {arrow::float16(), arrow::float32(), arrow::float64()}) {
    EXPECT_EQ(rows(type, "[1.5, null]"), Json::parse("[1.5, null]")) << type->ToString();
  }
  for (const Type& type : {arrow::decimal32(9, 2), arrow::decimal64(12, 2),
                           arrow::decimal128(20, 2), arrow::decimal256(50, 2)}) {
    EXPECT_EQ(rows(type, R"(["13.75", null])"), Json::parse("[13.75, null]")) << type->ToString();
  }
  // More digits than a double holds.
  EXPECT_EQ(rows(arrow::decimal128(20, 2), R"(["123456789012345678.75"])"),
            Json::parse(R"(["123456789012345678.75"])"));
}

TEST_F(Layouts, DatesAndTimesAreAsTheyAreWritten) {
  EXPECT_EQ(rows(arrow::date32(), "[20485]")[0], "2026-02-01");
  EXPECT_EQ(rows(arrow::timestamp(arrow::TimeUnit::SECOND), R"(["2026-02-01 12:30:05"])")[0]
                .get<std::string>()
                .substr(0, 19),
            "2026-02-01 12:30:05");
  for (const Type& type :
       {arrow::timestamp(arrow::TimeUnit::NANO, "UTC"), arrow::time64(arrow::TimeUnit::MICRO),
        arrow::duration(arrow::TimeUnit::MILLI)}) {
    EXPECT_TRUE(rows(type, "[5]")[0].is_string()) << type->ToString();
  }
}

// Of keys that no object of JSON can have they are their entries.
TEST_F(Layouts, MapsAreObjects) {
  EXPECT_EQ(rows(arrow::map(arrow::utf8(), arrow::int32()), R"([[["a", 1], ["b", null]], null])"),
            Json::parse(R"([{"a": 1, "b": null}, null])"));
  EXPECT_EQ(rows(arrow::map(arrow::int32(), arrow::utf8()), R"([[[1, "a"], [2, null]], [], null])"),
            Json::parse(R"([[{"key": 1, "value": "a"}, {"key": 2}], {}, null])"));
  EXPECT_REFUSED(rows(arrow::map(arrow::utf8(), arrow::utf8()), R"([[["a", "x"], ["a", "y"]]])"),
                 "\"a\" stands twice");
}

// What the `datasets` library makes of values of several shapes.
TEST_F(Layouts, JsonOfTheDatasetsLibrary) {
  const Type json = arrow::extension::json(arrow::utf8());
  const auto texts = array(arrow::utf8(), R"(["\"hi\"", "[{\"type\": \"text\"}]", null, "{"])");
  const auto items = arrow::ExtensionType::WrapArray(json, texts);
  const auto wrapped =
      arrow::StructArray::Make({items}, {arrow::field("content", json)}).ValueOrDie();
  const ParquetFile file(
      write(arrow::Table::Make(arrow::schema({arrow::field("c", wrapped->type())}), {wrapped})),
      {"c"});
  EXPECT_EQ(file.row(0).value(0), Json::parse(R"({"content": "hi"})"));
  EXPECT_EQ(file.row(1).value(0), Json::parse(R"({"content": [{"type": "text"}]})"));
  EXPECT_EQ(file.row(2).value(0), Json::object());
  EXPECT_REFUSED(file.row(3).value(0), "column c row 3: not valid JSON");
}

TEST_F(Layouts, ColumnsAreToldWithWhatTheyHold) {
  const Type picture = arrow::struct_({arrow::field("bytes", arrow::binary())});
  const auto columns = parquet_columns(
      write({{"text", arrow::utf8()}, {"none", arrow::int32()}, {"picture", picture}},
            {R"(["a", null, "b"])", "[null, null, null]", R"([{"bytes": "x"}, null, null])"}));
  ASSERT_EQ(columns.size(), 3u);
  EXPECT_EQ(columns[0].name, "text");
  EXPECT_EQ(columns[0].filled, 2);
  EXPECT_FALSE(columns[0].has_bytes);
  EXPECT_EQ(columns[1].filled, 0);
  EXPECT_GT(columns[2].filled, 0);
  EXPECT_TRUE(columns[2].has_bytes);
}

// As a damaged file may have them: Arrow's reader checks most, and no list is read beyond its
// values.
TEST(ItemsOf, ListsThatLeaveTheirValuesHaveNone) {
  const auto values = arrow::json::ArrayFromJSONString(arrow::int8(), "[7, 8]").ValueOrDie();
  const std::vector<int32_t> offsets = {0, 1, 2, 3};
  const arrow::ListArray lists(arrow::list(arrow::int8()), 3, arrow::Buffer::Wrap(offsets), values);
  ASSERT_TRUE(items_of(lists, 1));
  EXPECT_EQ(items_of(lists, 1)->first, 1);
  EXPECT_EQ(items_of(lists, 1)->count, 1);
  EXPECT_FALSE(items_of(lists, 2));
  EXPECT_FALSE(items_of(*values, 0));
  for (const std::vector<int32_t>& wrong : {std::vector<int32_t>{-1, 0}, {2, 0}, {3, 3}}) {
    const arrow::ListArray damaged(arrow::list(arrow::int8()), 1, arrow::Buffer::Wrap(wrong),
                                   values);
    EXPECT_FALSE(items_of(damaged, 0)) << wrong[0];
  }
}

}  // namespace
}  // namespace trestle

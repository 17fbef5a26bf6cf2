#include "chat/tools.h"

#include "base/error.h"

namespace trestle {

namespace {

// LLaMA-Factory's list has the functions alone; exports fill what a function has not.
void make_plain_tool(Json& tool, const std::string& what) {
  if (tool.is_object() && tool.contains("name") && !tool.contains("function")) {
    tool = Json{{"type", "function"}, {"function", tool}};
  }
  if (!tool.is_object() || !tool.contains("function") || !tool["function"].is_object()) return;
  Json& function = tool["function"];
  for (const char* key : {"description", "parameters"}) {
    const bool says_none = function.contains(key) && find_said(function, key) == nullptr;
    if (says_none && !(*key == 'p' && function[key].is_object())) function.erase(key);
  }
  const Json* parameters = find_said(function, "parameters");
  if (parameters != nullptr && parameters->is_string()) {
    function["parameters"] = parse_json_of_single_keys(parameters->get<std::string>(),
                                                       what + ": the parameters of a tool");
  }
}

std::string text_of(const Json& object, const char* key, const std::string& place) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) {
    user_error("{}: \"{}\" must be a string", place, key);
  }
  return found->get<std::string>();
}

ToolCall read_call(const Json& json, OtherKeys others, const std::string& place) {
  const Json* function = json.is_object() ? find_said(json, "function") : nullptr;
  if (function == nullptr || !function->is_object()) {
    user_error(R"({}: a tool call must be {{"id", "function": {{"name", "arguments"}}}})", place);
  }
  check_call_keys(json, others, place);
  ToolCall call;
  if (find_said(json, "id") != nullptr) call.id = text_of(json, "id", place);
  call.name = text_of(*function, "name", place);
  const Json arguments = function->value("arguments", Json());
  if (arguments.is_object()) {
    call.arguments = arguments.dump();
  } else if (!arguments.is_null() && arguments != Json::array()) {
    call.arguments = text_of(*function, "arguments", place);
  }
  return call;
}

}  // namespace

Json read_tools(const Json& row, const std::string& what) {
  const Json* tools = find_said(row, "tools");
  if (tools == nullptr) return nullptr;
  Json list = tools->is_string()
                  ? parse_json_of_single_keys(tools->get<std::string>(), what + ": tools")
                  : *tools;
  if (says_nothing(list)) return nullptr;
  if (!list.is_array()) user_error("{}: \"tools\" must be a list", what);
  for (Json& tool : list) make_plain_tool(tool, what);
  return list;
}

std::vector<ToolCall> read_calls(const Json& calls, OtherKeys others, const std::string& place) {
  if (calls.is_string()) {
    const Json list =
        parse_json_of_single_keys(calls.get<std::string>(), place + ": \"tool_calls\"");
    if (!list.is_string()) return read_calls(list, others, place);
  }
  if (!calls.is_array()) user_error("{}: \"tool_calls\" must be a list", place);
  std::vector<ToolCall> read;
  for (const Json& call : calls) read.push_back(read_call(call, others, place));
  return read;
}

std::vector<ToolCall> read_function_call(const Json& text, OtherKeys others,
                                         const std::string& place) {
  if (!text.is_string()) user_error("{}: a function_call must be JSON text", place);
  const Json said = parse_json_of_single_keys(text.get<std::string>(), place + ": function_call");
  Json calls = Json::array();
  for (const Json& call : said.is_array() ? said : Json::array({said})) {
    calls.push_back({{"function", call}});
  }
  return read_calls(calls, others, place);
}

}  // namespace trestle

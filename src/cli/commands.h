// One function a subcommand: each adds itself, its flags and its callback to the program. Called by
// main.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "flags/command.h"

namespace trestle {

/// What each rank of `trestle launch` runs: the words behind --, if there is one.
using RankCommand = std::optional<std::vector<std::string>>;
/// Takes them off launch's arguments, with the --.
RankCommand take_rank_command(std::vector<std::string>& arguments);

void add_compare(Command app);
void add_data(Command app);
void add_demo(Command app);
void add_evaluate(Command app);
void add_export(Command app);
void add_finetune(Command app);
void add_generate(Command app);
void add_import(Command app);
void add_inspect(Command app);
void add_launch(Command app, const RankCommand& words);
void add_logits(Command app);
void add_plan(Command app);
void add_preprocess(Command app);
void add_quantize(Command app);
void add_recipes(Command app);
void add_rehearse(Command app);
void add_tokenize(Command app);

}  // namespace trestle

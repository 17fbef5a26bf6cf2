// One function a subcommand: each adds itself, its flags and its callback to the program. Called by
// main.
#pragma once

#include "flags/command.h"

namespace trestle {

void add_compare(Command app);
void add_data(Command app);
void add_demo(Command app);
void add_evaluate(Command app);
void add_export(Command app);
void add_finetune(Command app);
void add_generate(Command app);
void add_import(Command app);
void add_inspect(Command app);
void add_logits(Command app);
void add_preprocess(Command app);
void add_recipes(Command app);
void add_tokenize(Command app);

}  // namespace trestle

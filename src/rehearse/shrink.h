// A model that is cut over ranks exactly as a real one and is small in all else, so that its
// topology runs on a laptop. Called by rehearsal.h.
#pragma once

#include <cstdint>
#include <filesystem>

#include "base/json.h"
#include "model/config.h"
#include "parallel/topology.h"

namespace trestle {

/// config.json of a model with `real`'s heads, query groups and tie, with so many layers that every
/// chunk of the pipeline has at least one (two where there are no more than four chunks), and else
/// with the sizes of `small`, config.json of a model whose tokenizer it takes. Its widths keep the
/// blocks of a quantised base whole on every tensor rank.
Json shrunk_config(const Json& small, const ModelConfig& real, const Topology& topology);

/// A Hugging Face directory `output` of that config with random weights of `seed` and the other
/// files of `small`, a model's directory.
void write_shrunk_model(const std::filesystem::path& small, const ModelConfig& real,
                        const Topology& topology, uint64_t seed,
                        const std::filesystem::path& output);

}  // namespace trestle

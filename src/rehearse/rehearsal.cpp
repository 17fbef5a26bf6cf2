#include "rehearse/rehearsal.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <mutex>

#include "base/standard_streams.h"
#include "model/ministral3.h"
#include "parallel/share.h"
#include "parallel/world.h"
#include "train/trainer.h"

namespace trestle {

namespace {

using Clock = std::chrono::steady_clock;
using Gradients = std::map<std::string, ParameterPart>;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Rates that do not hide a difference: no warm-up from 0, and nothing drawn that threads of one
// process would draw from one another's numbers.
TrainConfig rehearsed(TrainConfig config, int64_t steps) {
  config.model.params_dtype = "float32";
  config.train.device = "cpu";
  config.train.train_iters = steps;
  config.train.num_epochs.reset();
  config.train.train_samples.reset();
  config.scheduler.lr_warmup_iters = 0;
  config.scheduler.lr_warmup_fraction.reset();
  config.scheduler.lr_decay_style = "constant";
  config.validation.eval_iters = 0;
  config.peft.dropout = 0;
  // Each rank's own, so that several run the tower for a picture that one runs it for once.
  config.dataset.feature_cache_mb = 0;
  config.dataset.feature_cache.clear();
  config.checkpoint.load.clear();
  config.logger.log_params_norm = true;
  return config;
}

struct Steps {
  std::vector<StepMetrics> metrics;
  /// Behind the first step, of all that the rank updates: parts of parameters, as fp32.
  Gradients gradients;
};

Steps steps_of(Trainer& trainer, int64_t steps) {
  Steps made;
  for (int64_t i = 0; i < steps; ++i) {
    made.metrics.push_back(trainer.step());
    if (i > 0) continue;
    for (ParameterPart part : trainer.optimizer().parts()) {
      if (!part.tensor.grad().defined()) continue;
      part.tensor = part.tensor.grad().to(at::kFloat).clone();
      made.gradients[part.name] = std::move(part);
    }
  }
  return made;
}

double relative(double many, double one) {
  return std::abs(many - one) / std::max(std::abs(one), 1e-12);
}

// The worst of a rank's gradients, beside the whole's of one rank.
RehearsedNumber worst_gradient(const Gradients& many, const Gradients& one, RankOf who) {
  RehearsedNumber worst{"gradients of the first step"};
  for (const auto& [name, part] : many) {
    const auto found = one.find(name);
    TORCH_CHECK(found != one.end(), name, " has a gradient on a rank of several alone");
    const at::Tensor& whole = found->second.tensor;
    const at::Tensor wanted =
        share_of(whole, split_of(name), who).flatten().narrow(0, part.first, part.tensor.numel());
    const double largest = whole.abs().max().item<double>();
    const double difference =
        (part.tensor.flatten() - wanted).abs().max().item<double>() / std::max(largest, 1e-12);
    if (difference < worst.difference) continue;
    worst = {fmt::format("gradient of {}", name), wanted.norm().item<double>(),
             part.tensor.norm().item<double>(), difference};
  }
  return worst;
}

std::vector<RehearsedTraffic> traffic_of(const Grid& grid) {
  std::vector<RehearsedTraffic> all;
  for (const Group* group : {&grid.tensor, &grid.context, &grid.data, &grid.pipeline,
                             &grid.gradients, &grid.whole_gradients, &grid.embedding}) {
    if (group->is_one()) continue;
    const Traffic traffic = group->traffic();
    RehearsedTraffic sum{group->name(), group->size()};
    for (const Traffic::Kind& kind : traffic.kinds) sum.calls += kind.calls;
    sum.bytes = traffic.bytes();
    all.push_back(sum);
  }
  return all;
}

// What ranks found, made one.
class Findings {
 public:
  void add(const RehearsedNumber& worst, const std::vector<RehearsedTraffic>& traffic) {
    const std::scoped_lock lock(mutex_);
    if (!worst_ || worst.difference > worst_->difference) worst_ = worst;
    for (const RehearsedTraffic& each : traffic) {
      const auto same = std::ranges::find(traffic_, each.group, &RehearsedTraffic::group);
      if (same == traffic_.end()) {
        traffic_.push_back(each);
      } else if (each.bytes > same->bytes) {
        *same = each;
      }
    }
  }
  const std::optional<RehearsedNumber>& worst() const { return worst_; }
  const std::vector<RehearsedTraffic>& traffic() const { return traffic_; }

 private:
  std::mutex mutex_;
  std::optional<RehearsedNumber> worst_;
  std::vector<RehearsedTraffic> traffic_;
};

}  // namespace

bool Rehearsal::is_equal() const {
  return std::ranges::all_of(numbers, [this](const RehearsedNumber& number) {
    return number.difference <= tolerance;  // not so of a NaN
  });
}

struct Rehearser::One {
  Steps steps;
  double seconds = 0;
};

Rehearser::Rehearser(const TrainConfig& config, int64_t steps)
    : config_(rehearsed(config, steps)), one_(std::make_unique<One>()) {
  const SilentMessages silent;
  const Clock::time_point start = Clock::now();
  Trainer trainer(config_);
  one_->steps = steps_of(trainer, steps);
  one_->seconds = seconds_since(start);
}

Rehearser::~Rehearser() = default;

Rehearsal Rehearser::on(const Topology& topology) const {
  const SilentMessages silent;
  const Steps& one = one_->steps;
  Rehearsal rehearsal;
  rehearsal.topology = topology;
  rehearsal.seconds_one = one_->seconds;
  TrainConfig config = config_;
  config.model.tensor_model_parallel_size = topology.tensor;
  config.model.context_parallel_size = topology.context;
  config.model.pipeline_model_parallel_size = topology.pipeline;
  config.model.virtual_pipeline_model_parallel_size = topology.virtual_pipeline;
  config.model.sequence_parallel = topology.sequence_parallel;
  const Clock::time_point start = Clock::now();
  Findings findings;
  std::vector<StepMetrics> many;
  run_ranks(topology.world(), [&](const World& world) {
    Trainer trainer(config, {}, world);
    const Steps made = steps_of(trainer, std::ssize(one.metrics));
    const Grid& grid = trainer.ranks().grid;
    findings.add(
        worst_gradient(made.gradients, one.gradients, {grid.place.tensor, grid.topology.tensor}),
        traffic_of(grid));
    if (world.is_first()) many = made.metrics;
  });
  rehearsal.seconds_many = seconds_since(start);
  for (size_t i = 0; i < one.metrics.size(); ++i) {
    const auto add = [&](const char* what, double StepMetrics::*value) {
      const double of_one = one.metrics[i].*value, of_many = many.at(i).*value;
      rehearsal.numbers.push_back(
          {fmt::format("step {} {}", i + 1, what), of_one, of_many, relative(of_many, of_one)});
    };
    add("loss", &StepMetrics::loss);
    add("gradient norm", &StepMetrics::grad_norm);
    add("operations", &StepMetrics::flops);
    const double norm = one.metrics[i].params_norm.value();
    const double of_many = many.at(i).params_norm.value();
    rehearsal.numbers.push_back({fmt::format("step {} norm of all weights", i + 1), norm, of_many,
                                 relative(of_many, norm)});
  }
  if (findings.worst()) rehearsal.numbers.push_back(*findings.worst());
  rehearsal.traffic = findings.traffic();
  return rehearsal;
}

}  // namespace trestle

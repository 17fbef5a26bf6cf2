#include "recipes/bridge_keys.h"

namespace trestle {

namespace {

using enum BridgeHow;

// Why, where several rows share it.
constexpr std::string_view kRanks =
    "how ranks work together is settled here (docs/parallel.md); results are the same without it";
constexpr std::string_view kGpu = "a setting of CUDA kernels; results are the same without";
constexpr std::string_view kPython = "Python's own housekeeping";
constexpr std::string_view kWeights = "read from checkpoint.pretrained_checkpoint";
constexpr std::string_view kOtherFamily =
    "for other families of models; this one is dense, with plain attention";
constexpr std::string_view kNoPadding = "nothing is padded: samples lie one behind the other";
constexpr std::string_view kOtherOptimizer = "a setting of optimizers other than Adam";
constexpr std::string_view kLossScale = "for fp16, which is not trained in";
constexpr std::string_view kNvidia =
    "a package of NVIDIA's that watches ranks on a cluster; start the run again with "
    "checkpoint.load=auto instead";
constexpr std::string_view kSavedWhole =
    "a way of sharing the work of a save; here each rank writes and reads what it holds";
constexpr std::string_view kLocal =
    "checkpoints in memory or on local disks; use checkpoint.save_interval";
constexpr std::string_view kDebug =
    "a dump for debugging Megatron; trestle inspect and compare show tensors";
constexpr std::string_view kSamples =
    "a schedule in samples; give the key in iterations (samples / train.global_batch_size)";
constexpr std::string_view kComet =
    "Comet is not written to; use logger.wandb_project or TensorBoard";

constexpr std::string_view kSets =
    "each set says its name and its data: validation.sets=[{name: N, path: A}, {name: M, path: B}]";

constexpr std::string_view kNotYet = "is not here yet; leave it out";

constexpr BridgeKeys kTable[] = {
    // What is still to come.

    // How long and in what portions.
    {"train",
     "train_iters train_samples num_epochs global_batch_size micro_batch_size exit_interval "
     "exit_duration_in_mins",
     kTaken},
    {"train", "eval_iters", kRenamed, "validation.eval_iters"},
    {"train", "eval_interval", kRenamed, "validation.eval_interval"},
    {"train", "rampup_batch_size step_batch_size_schedule", kRefused,
     "the batch has one size through a run; train.global_batch_size sets it", "null"},
    {"train", "decrease_batch_size_if_needed", kRefused,
     "a batch that does not divide is an error here", "false"},
    {"train", "skip_train", kRefused, "trestle evaluate measures without training", "null|false"},
    {"train", "iterations_to_skip", kRefused,
     "no step is left out by number; train.on_nan=skip leaves out those that go wrong", "[]|null"},
    {"train", "exit_signal_handler exit_signal_handler_for_training", kNoEffect,
     "SIGTERM, SIGINT and SIGHUP always save and end the run"},
    {"train", "exit_signal*", kNoEffect, "SIGTERM, SIGINT and SIGHUP always save and end the run"},
    {"train", "manual_gc*", kNoEffect, kPython},
    {"train", "empty_unused_memory_level train_sync_interval gpu_sniff_test_interval", kNoEffect,
     kGpu},
    {"train",
     "check_weight_hash_across_dp_replicas_interval skip_sync_grad_norm_across_mp "
     "check_optimizer_step_success",
     kNoEffect, kRanks},
    {"validation", "eval_iters eval_interval start_eval_at_iter", kTaken},
    {"validation", "eval_global_batch_size eval_micro_batch_size", kRefused,
     "validation takes training's batches; leave it out", "null"},
    {"validation", "validation_set_names", kRefused, kSets, "null"},
    {"validation", "multiple_validation_sets", kRefused, kSets, "false"},
    {"validation", "full_validation", kRefused,
     "validation.eval_iters says how many global batches; give as many as there are", "false"},
    {"validation", "skip_train", kRefused, "trestle evaluate measures without training", "false"},
    {"validation", "test_mode", kNoEffect, "tests run apart"},

    // Optimizer and schedule.
    {"optimizer",
     "lr min_lr weight_decay adam_beta1 adam_beta2 adam_eps clip_grad "
     "use_distributed_optimizer",
     kTaken},
    {"optimizer", "optimizer", kRefused, "Adam is the one optimizer here (AdamW)", "adam|adamw"},
    {"optimizer", "decoupled_weight_decay", kRefused,
     "weight decay is AdamW's, apart from the gradient", "true"},
    {"optimizer", "decoupled_lr decoupled_min_lr", kRefused,
     "embedding and head learn at optimizer.lr", "null"},
    {"optimizer", "apply_wd_to_qk_layernorm", kRefused, "there is no such norm in this family",
     "false"},
    {"optimizer", "grad_norm_skip_threshold", kRefused,
     "train.loss_spike_factor with train.on_nan=skip leaves bad steps out", "inf|.inf|Infinity"},
    {"optimizer", "main_grads_dtype main_params_dtype exp_avg_dtype exp_avg_sq_dtype", kRefused,
     "gradients, masters and Adam's moments are float32", "torch.float32|float32|fp32|null"},
    {"optimizer", "use_precision_aware_optimizer store_param_remainders", kNoEffect,
     "gradients, masters and Adam's moments are float32"},
    {"optimizer", "fp16", kRefused, "bf16 and float32 are trained in; see model.params_dtype",
     "false"},
    {"optimizer", "bf16 params_dtype", kNoEffect, "model.params_dtype says it"},
    {"optimizer", "fp8_recipe", kRefused, "nothing is computed in FP8", "null"},
    {"optimizer", "loss_scale* initial_loss_scale min_loss_scale hysteresis", kNoEffect,
     kLossScale},
    {"optimizer", "sgd_* muon_* lion_* soap_* adaptive_muon_*", kNoEffect, kOtherOptimizer},
    {"optimizer",
     "use_layer_wise_distributed_optimizer overlap_param_gather* "
     "reuse_grad_buf_for_mxfp8_param_ag",
     kNoEffect, kRanks},
    {"optimizer",
     "optimizer_cpu_offload optimizer_offload_fraction use_torch_optimizer_for_cpu_offload "
     "overlap_cpu_optimizer_d2h_h2d pin_cpu_grads pin_cpu_params optimizer_cuda_graph",
     kNoEffect, "the optimizer's state lies in main memory"},
    {"optimizer", "log_num_zeros_in_grad", kRefused, "metrics.jsonl has grad_norm", "false"},
    {"optimizer", "barrier_with_L1_time timers config_logger_dir", kNoEffect, kPython},
    {"scheduler",
     "lr_decay_style lr_decay_iters lr_wsd_decay_style lr_wsd_decay_iters lr_warmup_iters "
     "lr_warmup_fraction lr_warmup_init start_weight_decay end_weight_decay "
     "weight_decay_incr_style",
     kTaken},
    {"scheduler", "lr_decay_samples lr_wsd_decay_samples", kRefused, kSamples, "null"},
    {"scheduler", "lr_warmup_samples", kRefused, kSamples, "0|null"},
    {"scheduler", "override_opt_param_scheduler use_checkpoint_opt_param_scheduler", kRefused,
     "a resumed run takes the rates that it is given; give those of the checkpoint to keep them",
     "false"},
    {"scheduler", "no_weight_decay_cond_type", kRefused, kOtherFamily, "null"},
    {"scheduler", "max_steps", kRefused,
     "give the full train.train_iters, and train.exit_interval to stop before them", "null"},
    {"scheduler", "lr_decay_steps lr_warmup_steps wd_incr_steps wsd_decay_steps", kNoEffect,
     "made from the iterations while a run is set up"},

    // Data.
    {"dataset", "maker_name", kTaken, "",
     "cord_v2>make_cord_v2_dataset|medpix>make_medpix_dataset|raven>make_raven_dataset"},
    {"dataset", "path_or_dataset blend split num_workers pack_sequences_in_batch", kTaken},
    {"dataset", "data_path blend_per_split", kRefused,
     "name data in dataset.path_or_dataset or dataset.blend, those of validation in "
     "validation.sets",
     "null"},
    {"dataset", "source.dataset_name source.schema_adapter", kRenamed, "dataset.maker_name",
     "cord_v2>make_cord_v2_dataset|medpix>make_medpix_dataset|raven>make_raven_dataset"},
    {"dataset", "source.path_or_dataset source.load_kwargs.data_files.train", kRenamed,
     "dataset.path_or_dataset"},
    {"dataset", "source.split", kRenamed, "dataset.split"},
    {"dataset", "source.subset", kRenamed, "dataset.subset"},
    {"dataset", "source", kRefused, "name its parts: dataset.source.dataset_name=cord_v2",
     "null|{}"},
    {"dataset",
     "source.load_kwargs source.load_kwargs.* source.adapter_kwargs source.adapter_kwargs.*",
     kRefused, "arguments of Python functions; name the files in dataset.path_or_dataset",
     "null|{}"},
    {"dataset",
     "validation_source.path_or_dataset validation_source.load_kwargs.data_files.validation",
     kRenamed, "validation.path_or_dataset"},
    {"dataset", "validation_source.split", kRenamed, "validation.split"},
    {"dataset", "validation_source.subset", kRenamed, "validation.subset"},
    {"dataset", "validation_source validation_source.*", kRefused,
     "validation rows are read by the training data's maker; set validation.path_or_dataset and "
     "validation.split",
     "null"},
    {"dataset", "test_source test_source.*", kRefused, "trestle evaluate scores a test set",
     "null"},
    {"dataset", "seq_length", kRenamed, "model.seq_length"},
    {"dataset", "enable_in_batch_packing", kRenamed, "dataset.pack_sequences_in_batch"},
    {"dataset", "defer_in_batch_packing_to_step", kNoEffect, "packs are made beside the step"},
    {"dataset", "hf_processor_path", kNoEffect,
     "tokenizer and pictures' sizes are those of checkpoint.pretrained_checkpoint"},
    {"dataset", "do_validation", kRefused, "validation.eval_interval=0 turns validation off",
     "true"},
    {"dataset", "do_test", kNoEffect, "no test set is measured; trestle evaluate does it"},
    {"dataset", "dataloader_type", kRenamed, "dataset.shuffle", "cyclic>true|single>false"},
    {"dataset", "pad_to_max_length pad_to_multiple_of in_batch_packing_pad_to_multiple_of",
     kNoEffect, kNoPadding},
    {"dataset",
     "pin_memory persistent_workers data_sharding drop_last "
     "skip_getting_attention_mask_from_dataset trust_remote_code",
     kNoEffect, "a setting of PyTorch's loader"},
    {"dataset", "dataloader_save dataloader_load", kRefused,
     "a checkpoint holds the data's position itself", "null"},
    {"dataset", "preprocessing preprocessing.*", kRefused,
     "rows become tokens as mistral-common does it; docs/training.md says how", "null|{}"},
    {"dataset", "enable_offline_packing", kRefused,
     "packs are made while training; set dataset.pack_sequences_in_batch=true", "false"},
    {"tokenizer",
     "chat_template chat_template_path tokenizer_prompt_format image_tag_type special_tokens",
     kRefused, "the layout of chats is that of the checkpoint's tokenizer", "null"},
    {"tokenizer", "force_system_message", kRefused, "a row says its system message", "false|null"},
    {"tokenizer", "*", kNoEffect, "the tokenizer is the one of checkpoint.pretrained_checkpoint"},

    // Checkpoints.
    {"checkpoint",
     "pretrained_checkpoint save load save_interval most_recent_k save_retain_interval ckpt_step "
     "finetune save_optim save_rng load_optim load_rng async_save verify_integrity "
     "also_save_hf_checkpoint hf_source_path",
     kTaken},
    {"checkpoint", "ckpt_format", kRefused, "checkpoints are torch_dist", "torch_dist"},
    {"checkpoint", "auto_detect_ckpt_format", kNoEffect,
     "what a directory holds is always looked at"},
    {"checkpoint", "ckpt_convert_*", kRefused, "trestle import and export convert", "null|false"},
    {"checkpoint", "exit_on_missing_checkpoint", kNoEffect,
     "a checkpoint.load without a checkpoint is an error, and auto begins anew"},
    {"checkpoint", "load_main_params_from_ckpt", kRefused,
     "float32 masters are part of every checkpoint and are loaded", "false"},
    {"checkpoint", "use_checkpoint_args use_mp_args_from_checkpoint_args", kRefused,
     "a run says its own config; --config RUN/resolved_config.yaml takes another's", "false"},
    {"checkpoint", "use_tokenizer_model_from_checkpoint_args save_tokenizer_assets", kNoEffect,
     "the tokenizer is always saved and always the checkpoint's"},
    {"checkpoint", "dist_ckpt_strictness", kNoEffect,
     "every tensor is used once or the load is an error (raise_all)"},
    {"checkpoint",
     "async_strategy use_persistent_ckpt_worker async_ckpt_* async_write_results_mp_mode "
     "dist_ckpt_workers storage_writers_per_rank",
     kNoEffect, kSavedWhole},
    {"checkpoint",
     "fully_parallel_save fully_parallel_load ckpt_fully_parallel_* "
     "ckpt_assume_constant_structure ckpt_load_validate_sharding_integrity "
     "dist_ckpt_optim_fully_reshardable distrib_optim_fully_reshardable_mem_efficient "
     "dist_ckpt_save_pre_mcore_014 stream_ckpt_dequant strict_fsdp_dtensor_load",
     kNoEffect, kSavedWhole},
    {"checkpoint", "non_persistent_local_ckpt_algo replication_factor replication_jump", kNoEffect,
     kLocal},
    {"checkpoint", "non_persistent_*", kRefused, kLocal, "null"},
    {"checkpoint", "replication", kRefused, kLocal, "false"},
    {"checkpoint", "custom_manager_class", kRefused, "a Python class; there is no Python here",
     "null"},
    {"checkpoint",
     "save_params_interval save_activations_interval save_tokens_per_expert_interval "
     "save_wgrads_interval save_dgrads_interval",
     kRefused, kDebug, "null"},
    {"checkpoint", "hf_trust_remote_code hf_distributed_save hf_save_every_n_ranks", kNoEffect,
     "one process writes Hugging Face's form, of several ranks the first, and runs no code"},

    // What is written beside them.
    {"logger",
     "log_interval log_throughput log_params_norm log_progress tensorboard_dir "
     "tensorboard_log_interval log_throughput_to_tensorboard log_memory_to_tensorboard "
     "log_world_size_to_tensorboard wandb_project wandb_exp_name wandb_save_dir wandb_entity "
     "mlflow_experiment mlflow_run_name "
     "mlflow_tracking_uri mlflow_tags mlflow_tags.* mlflow_description mlflow_log_artifacts",
     kTaken},
    {"logger", "comet_*", kRefused, kComet, "null"},
    {"logger", "moe_*", kNoEffect, kOtherFamily},
    {"logger", "skip_train_metrics_log", kRefused,
     "metrics.jsonl has every step; logger.log_interval and tensorboard_log_interval thin the rest",
     "false"},
    {"logger", "save_config_filepath", kRefused,
     "a run has its config as resolved_config.yaml in checkpoint.save", "null"},
    {"logger", "log_energy log_device_memory_used", kRefused, "a reading of a GPU", "false"},
    {"logger", "memory_keys", kRefused,
     "names of CUDA's allocator; logger.log_memory_to_tensorboard has what a process has",
     "null|{}"},
    {"logger", "log_memory_interval", kNoEffect,
     "Megatron-LM's, which the Bridge does not read; metrics.jsonl has peak_memory_bytes"},
    {"logger", "log_max_attention_logit", kRefused, "attention keeps no logits to look at",
     "false"},
    {"logger", "log_num_zeros_in_grad", kRefused, "metrics.jsonl has grad_norm", "false"},
    {"logger", "log_l2_norm_grad_to_tensorboard", kRefused,
     "grad-norm is that of all weights; there is none of each", "false"},
    {"logger", "log_runtime_to_tensorboard", kRefused,
     "progress lines have the time left, TensorBoard's clock the time taken", "false"},
    {"logger", "runtime_time_unit", kNoEffect, "logger.log_runtime_to_tensorboard is off"},
    {"logger", "tensorboard_queue_size", kNoEffect,
     "each value is in its file before the next step"},
    {"logger", "throughput_window_size", kNoEffect,
     "each value is that of its step; TensorBoard smooths"},
    {"logger", "log_timers_to_tensorboard log_validation_ppl_to_tensorboard", kNoEffect,
     "iteration-time and the perplexity are always there"},
    {"logger", "log_loss_scale_to_tensorboard", kNoEffect, kLossScale},
    {"logger", "timing_log_level timing_log_option barrier_with_L1_time", kNoEffect,
     "the parts of a step are timed by profiling.use_pytorch_profiler"},
    {"logger", "logging_level filter_warnings modules_to_filter set_level_for_all_loggers",
     kNoEffect, kPython},

    {"profiling",
     "use_pytorch_profiler profile_step_start profile_step_end pytorch_profiler_collect_shapes",
     kTaken},
    {"profiling", "profile_ranks", kRefused, "rank 0 alone is traced", "[0]|null"},
    {"profiling", "use_nsys_profiler nvtx_ranges", kRefused,
     "nsys looks at CUDA; set profiling.use_pytorch_profiler", "false"},
    {"profiling", "record_shapes", kNoEffect, "profiling.use_nsys_profiler is off"},
    {"profiling", "record_memory_history", kRefused,
     "a record of CUDA's allocator; set logger.log_memory_to_tensorboard", "false"},
    {"profiling", "memory_snapshot_path", kNoEffect, "profiling.record_memory_history is off"},
    {"profiling", "pytorch_profiler_collect_callstack", kRefused,
     "stacks of Python; there is no Python here", "false"},
    {"profiling", "pytorch_profiler_collect_chakra", kRefused,
     "traces are Chrome's, in RUN/torch_profile", "false"},

    // Adapters.
    {"peft", "target_modules dim alpha dropout lora_A_init_method lora_B_init_method", kTaken},
    {"peft", "exclude_modules", kRefused, "peft.target_modules names what is adapted", "[]|null"},
    {"peft", "dropout_position", kRefused, "dropout is on the adapters' input", "pre"},
    {"peft", "freeze_vision_model freeze_vision_projection freeze_language_model", kRefused,
     "adapters freeze the whole base, and nothing of it trains beside them", "true"},
    {"peft", "lora_dtype", kNoEffect, "adapters are in model.params_dtype with float32 masters"},
    {"peft", "canonical_mapping* params_to_save*", kNoEffect, "made from the target modules"},
    {"peft", "a2a_experimental sequence_parallel_input_regather", kNoEffect, kRanks},
    {"peft", "normalize_moe_lora share_expert_adapters experts_shared_outer_loras", kNoEffect,
     kOtherFamily},

    // The model.
    {"model",
     "tensor_model_parallel_size pipeline_model_parallel_size context_parallel_size "
     "sequence_parallel seq_length freeze_language_model freeze_vision_model "
     "freeze_vision_projection recompute_granularity recompute_method recompute_num_layers "
     "num_layers_in_first_pipeline_stage num_layers_in_last_pipeline_stage "
     "account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split",
     kTaken},
    {"model", "virtual_pipeline_model_parallel_size", kTaken, "", "null>1"},
    {"model", "pipeline_model_parallel_layout", kRefused,
     "model.num_layers_in_*_pipeline_stage, model.account_for_* and model.pipeline_split say which "
     "layers a stage has",
     "null"},
    {"model", "params_dtype", kTaken, "",
     "torch.bfloat16>bf16|bfloat16>bf16|torch.float32>float32|fp32>float32"},
    {"model", "fp16 fp16_lm_cross_entropy", kRefused,
     "bf16 and float32 are trained in; see model.params_dtype", "false"},
    {"model", "bf16 pipeline_dtype autocast_dtype enable_autocast", kNoEffect,
     "model.params_dtype says it"},
    {"model", "fp8", kRefused, "nothing is computed in FP8", "null"},
    {"model", "quant_recipe", kRefused, "nothing is quantised while it trains; see peft.base_bits",
     "null"},
    {"model", "fp32_residual_connection", kRefused, "residuals are in model.params_dtype", "false"},
    {"model", "fp4", kRefused, "nothing is computed in FP4", "null"},
    {"model",
     "fp8_* fp4_* tp_only_amax_red first_last_layers_bf16 num_layers_at_start_in_bf16 "
     "num_layers_at_end_in_bf16",
     kNoEffect, "model.fp8 and model.fp4 are off"},
    {"model", "expert_model_parallel_size expert_tensor_parallel_size", kNoEffect, kOtherFamily},
    {"model",
     "pipeline_model_parallel_comm_backend deallocate_pipeline_outputs "
     "microbatch_group_size_per_vp_stage batch_p2p_* overlap_p2p_comm* tp_comm_* cp_comm_type "
     "hierarchical_context_parallel_sizes hybrid_context_parallel max_seqlen_per_dp_cp_rank "
     "scatter_embedding_sequence_parallel defer_embedding_wgrad_compute wgrad_deferral_limit "
     "delay_wgrad_compute parallel_output symmetric_ar_type nccl_all_reduce_for_prefill "
     "high_priority_a2a_comm_stream overlap_* gtp_* expert_gtp_* expert_tensor_parallel_* "
     "ep_overlap_early_attn_memory_release tensor_parallel_num_weight_shards use_ring_exchange_p2p "
     "variable_seq_lengths barrier_with_L1_time finalize_model_grads_func grad_scale_func "
     "grad_sync_func "
     "param_sync_func no_sync_func mtp_grad_scale_func moe_grad_scale_func _pg_collection",
     kNoEffect, kRanks},
    {"model", "deterministic_mode", kRenamed, "train.deterministic"},
    {"model",
     "transformer_impl attention_backend flash_attention_version cross_entropy_loss_fusion "
     "cross_entropy_fusion_impl cuda_graph_* enable_cuda_graph external_cuda_graph "
     "gradient_accumulation_fusion bias_activation_fusion bias_dropout_fusion "
     "masked_softmax_fusion persist_layer_norm memory_efficient_layer_norm apply_rope_fusion "
     "use_fused_weighted_squared_relu fused_* use_transformer_engine_* use_te_* use_kitchen* "
     "kitchen_* activation_func_fp8_input_store disable_* attention_softmax_in_fp32 "
     "clone_scatter_output_in_embedding batch_invariant_mode "
     "use_inference_optimized_layers inference_* flash_decode mlp_chunks_* dense_grouped_gemm "
     "use_grouped_gemm_* transformer_layer_spec config_logger_dir test_mode "
     "log_max_attention_logit timers",
     kNoEffect, kGpu},
    {"model",
     "recompute_modules fine_grained_* offload_modules min_offloaded_tensor_size "
     "delay_offload_until_cuda_graph delta_offload_bytes_across_pp_ranks "
     "activation_offload_fraction cpu_offloading* distribute_saved_activations "
     "num_microbatches_with_partial_activation_checkpoints init_model_with_meta_device",
     kNoEffect, "memory is saved by model.recompute_granularity alone"},
    {"model",
     "perform_initialization use_cpu_initialization init_method* output_layer_init_method* "
     "embedding_init_method* restore_modelopt_state",
     kNoEffect, kWeights},
    {"model", "attention_dropout hidden_dropout", kRefused,
     "this family trains without dropout; peft.dropout is that of adapters", "0.0|0"},
    {"model", "calculate_per_token_loss", kNoEffect,
     "a step's loss is the mean over its targets, whatever the micro-batches"},
    {"model",
     "moe_* mtp_* mamba_* dsa_* mup_* use_mup linear_* num_moe_experts is_hybrid_model "
     "multi_latent_attention experimental_attention_variant* use_mamba_mem_eff_path "
     "heterogeneous_block_specs hetereogenous_dist_checkpoint mrope_section use_kitchen",
     kOfCheckpoint, kOtherFamily},
    {"model",
     "num_layers hidden_size num_attention_heads num_query_groups ffn_hidden_size kv_channels "
     "softmax_scale softmax_type normalization layernorm_epsilon layernorm_zero_centered_gamma "
     "add_bias_linear add_qkv_bias gated_linear_unit activation_func activation_func_clamp_value "
     "glu_linear_offset rotary_* rope_* seq_len_interpolation_factor yarn_* "
     "position_embedding_type window_* no_rope_freq qk_* attention_output_gate "
     "apply_query_key_layer_scaling apply_residual_connection_post_layernorm "
     "share_embeddings_and_output_weights vocab_size should_pad_vocab "
     "make_vocab_size_divisible_by use_arbitrary_attention_mask hf_config hf_config.* hf_model_id "
     "hf_model_revision image_token_id",
     kOfCheckpoint, kWeights},

    // Random numbers, precision, ranks, watchers.
    {"rng", "seed", kTaken},
    {"rng", "te_rng_tracker inference_rng_tracker", kNoEffect, kGpu},
    {"rng", "data_parallel_random_init", kNoEffect,
     "weights are the checkpoint's, and adapters begin alike on all ranks"},
    {"mixed_precision", "", kRenamed, "model.params_dtype",
     "bf16_mixed>bf16|bf16-mixed>bf16|fp32>float32"},
    {"mixed_precision", "params_dtype", kRenamed, "model.params_dtype",
     "torch.bfloat16>bf16|bfloat16>bf16|torch.float32>float32|fp32>float32"},
    {"mixed_precision", "fp16", kRefused, "bf16 and float32 are trained in; see model.params_dtype",
     "false"},
    {"mixed_precision", "fp8", kRefused, "nothing is computed in FP8", "null"},
    {"mixed_precision", "fp4", kRefused, "nothing is computed in FP4", "null"},
    {"mixed_precision", "*", kNoEffect, "model.params_dtype says it; sums are in float32"},
    {"rerun_state_machine", "check_for_nan_in_loss", kRefused,
     "each loss is looked at; train.on_nan=skip goes on behind a bad step", "true"},
    {"rerun_state_machine", "check_for_spiky_loss", kRefused, "set train.loss_spike_factor",
     "false"},
    {"rerun_state_machine", "rerun_mode", kRefused, "a step is not run twice", "disabled"},
    {"rerun_state_machine", "spiky_loss_factor error_injection_*", kNoEffect,
     "rerun_state_machine.rerun_mode is off"},
    {"ddp", "grad_reduce_in_fp32 reduce_scatter_with_fp32_accumulation", kNoEffect,
     "ranks' gradients are always summed and applied in float32, those of one rank's micro-batches "
     "summed in the parameters' type"},
    {"ddp", "use_distributed_optimizer", kRenamed, "optimizer.use_distributed_optimizer"},
    {"ddp", "*", kNoEffect, kRanks},
    {"comm_overlap", "*", kNoEffect, kRanks},
    {"dist", "distributed_timeout_minutes", kTaken},
    {"dist", "*", kNoEffect, kRanks},
    {"ft", "enable_ft_package simulate_fault", kRefused, kNvidia, "false"},
    {"straggler", "log_straggler", kRefused, kNvidia, "false"},
    {"nvrx_straggler", "enabled", kRefused, kNvidia, "false"},
    {"inprocess_restart", "enabled", kRefused, kNvidia, "false"},
    {"tensor_inspect", "enabled", kRefused, kDebug, "false"},
    {"ft", "*", kNoEffect, "the package is off"},
    {"straggler", "*", kNoEffect, "the package is off"},
    {"nvrx_straggler", "*", kNoEffect, "the package is off"},
    {"inprocess_restart", "*", kNoEffect, "the package is off"},
    {"tensor_inspect", "*", kNoEffect, "the package is off"},
    {"optimizer_config_override_provider", "*", kNoEffect, "a Python class"},
    {"env_vars", "*", kRefused, "set it in the environment that starts trestle", "{}|null"},
};

}  // namespace

std::span<const BridgeKeys> bridge_keys() { return kTable; }

}  // namespace trestle

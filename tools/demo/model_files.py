"""The demo model's directory except for its weights, laid out as in a Ministral 3 repository.

Called by make_data.py (model). Needs transformers for tokenizer.json alone.
"""

import json
from pathlib import Path

from vocabulary import write_tekken

# 3.0 M parameters. heads * head_dim is not hidden_size and there are 4 query heads to a key head,
# as in Ministral 3; receipts' positions reach 2 to 3 times original_max_position_embeddings, so
# that YaRN and the Llama-4 query scale count.
TEXT = dict(
    attention_dropout=0.0,
    bos_token_id=1,
    eos_token_id=2,
    head_dim=32,
    hidden_act="silu",
    hidden_size=192,
    initializer_range=0.02,
    intermediate_size=576,
    max_position_embeddings=1024,
    model_type="ministral3",
    num_attention_heads=8,
    num_hidden_layers=4,
    num_key_value_heads=2,
    pad_token_id=11,
    rms_norm_eps=1e-05,
    rope_parameters=dict(
        beta_fast=32.0,
        beta_slow=1.0,
        factor=8.0,
        llama_4_scaling_beta=0.1,
        mscale=1.0,
        mscale_all_dim=1.0,
        original_max_position_embeddings=128,
        rope_theta=10000.0,
        rope_type="yarn",
        type="yarn",
    ),
    sliding_window=None,
    tie_word_embeddings=True,
    use_cache=True,
)
VISION = dict(
    attention_dropout=0.0,
    head_dim=32,
    hidden_act="silu",
    hidden_size=128,
    image_size=560,
    initializer_range=0.02,
    intermediate_size=384,
    model_type="pixtral",
    num_attention_heads=4,
    num_channels=3,
    num_hidden_layers=4,
    patch_size=14,
    rope_parameters=dict(rope_theta=10000.0, rope_type="default"),
)
PROCESSOR = dict(
    image_break_token="[IMG_BREAK]",
    image_end_token="[IMG_END]",
    image_processor=dict(
        do_convert_rgb=True,
        do_normalize=True,
        do_rescale=True,
        do_resize=True,
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_processor_type="PixtralImageProcessor",
        image_std=[0.26862954, 0.26130258, 0.27577711],
        patch_size=14,
        resample=3,
        rescale_factor=1 / 255,
        size=dict(longest_edge=560),
    ),
    image_token="[IMG]",
    patch_size=14,
    processor_class="PixtralProcessor",
    spatial_merge_size=2,
)
TOKENIZER = dict(
    backend="tokenizers",
    bos_token="<s>",
    eos_token="</s>",
    model_max_length=1024,
    pad_token="<pad>",
    processor_class="PixtralProcessor",
    tokenizer_class="TokenizersBackend",
    unk_token="<unk>",
)
# Images come before the text of a turn, as in Ministral 3's chat layout.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
  {%- set text = [{'type': 'text', 'text': message.content}] %}
  {%- set blocks = text if message.content is string else message.content %}
  {%- if message.role == 'system' %}
    {{- '[SYSTEM_PROMPT]' }}
    {%- for block in blocks %}{{ block.text }}{% endfor %}
    {{- '[/SYSTEM_PROMPT]' }}
  {%- elif message.role == 'user' %}
    {{- '[INST]' }}
    {%- for block in blocks if block.type != 'text' %}{{ '[IMG]' }}{% endfor %}
    {%- for block in blocks if block.type == 'text' %}{{ block.text }}{% endfor %}
    {{- '[/INST]' }}
  {%- elif message.role == 'assistant' %}
    {%- for block in blocks %}{{ block.text }}{% endfor %}
    {{- eos_token }}
  {%- else %}
    {{- raise_exception('only system, user and assistant turns, not ' + message.role) }}
  {%- endif %}
{%- endfor %}
"""


def config(vocab_size):
    return dict(
        architectures=["Mistral3ForConditionalGeneration"],
        dtype="bfloat16",
        image_token_index=10,
        model_type="mistral3",
        multimodal_projector_bias=False,
        projector_hidden_act="gelu",
        spatial_merge_size=2,
        text_config=dict(TEXT, vocab_size=vocab_size),
        tie_word_embeddings=True,
        vision_config=VISION,
        vision_feature_layer=-1,
    )


def write_tokenizer_json(tekken, path):
    """tekken.json as the tokenizers package reads it, with <s> before each text."""
    from tokenizers import processors
    from transformers.integrations.mistral.tokenizer import MistralConverter

    tokenizer = MistralConverter(str(tekken)).converted()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(path), pretty=True)


def write_model_files(folder):
    folder = Path(folder)
    vocab_size = write_tekken(folder / "tekken.json")
    write_tokenizer_json(folder / "tekken.json", folder / "tokenizer.json")
    files = {
        "config.json": config(vocab_size),
        "generation_config.json": dict(
            bos_token_id=1, eos_token_id=2, pad_token_id=11, use_cache=True
        ),
        "processor_config.json": PROCESSOR,
        "tokenizer_config.json": TOKENIZER,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    print(f"{folder}: {vocab_size} tokens")

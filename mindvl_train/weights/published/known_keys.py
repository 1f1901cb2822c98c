"""Keys of a published `config.json`: what is not known may change what is computed, and is refused by name."""

from collections.abc import Collection

from mindvl_train.weights.published.family import Json, Language, PublishedError, Vision

ROTARY = ("rope_scaling", "rope_parameters")
ROTARY_KEYS = frozenset(
    {"rope_type", "type", "rope_theta", "mrope_section", "mrope_interleaved", "partial_rotary_factor"}
)
# What changes no forward pass: where a folder comes from, tokens that a manifest states, how weights were drawn, what a
# run or a generation was asked for. Defaults of `PreTrainedConfig` of every version of transformers among them.
_PASSED = """
_attn_implementation _commit_hash _name_or_path add_cross_attention architectures auto_map bad_words_ids
base_model_pp_plan base_model_tp_plan begin_suppress_tokens bos_token_id chunk_size_feed_forward
cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
forced_eos_token_id id2label image_token_id initializer_range is_decoder is_encoder_decoder label2id
language_model_only length_penalty max_length max_position_embeddings min_length model_type no_repeat_ngram_size
num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_router_logits
output_scores pad_token_id prefix problem_type pruned_heads quantization_config remove_invalid_values
repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers_version
typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache video_token_id vision_end_token_id
vision_start_token_id vision_token_id
"""
GENERIC = frozenset(_PASSED.split())


def check_language(config: Json, language: Language, *, joint: bool) -> None:
    """Refuses keys of a decoder that nobody here reads.

    Args:
        config: of its folder.
        language: its family.
        joint: whether the folder holds a vision tower too.

    Raises:
        PublishedError: names them, and the known ones.
    """
    if language.keys is None:
        return
    parts = {"vision_config", "text_config"} if joint else {"text_config"}
    _check(config, language.keys | parts, "")
    _check_rotary(config, language.rotary_keys, "")
    text = config.get("text_config")
    if isinstance(text, dict):
        _check(text, language.keys, "text_config.")
        _check_rotary(text, language.rotary_keys, "text_config.")


def check_vision(config: Json, vision: Vision) -> None:
    """Likewise of a vision tower."""
    tower, place = config.get("vision_config", config), "vision_config." if "vision_config" in config else ""
    if vision.keys is None or not isinstance(tower, dict):
        return
    _check(tower, vision.keys, place)
    _check_rotary(tower, frozenset(), place)


def _check_rotary(config: Json, more: Collection[str], place: str) -> None:
    for key in ROTARY:
        if isinstance(config.get(key), dict):
            _check(config[key], ROTARY_KEYS | set(more), f"{place}{key}.", generic=False)


def _check(config: Json, known: Collection[str], place: str, *, generic: bool = True) -> None:
    passed = GENERIC if generic else frozenset()
    # What is null is as good as absent.
    unknown = [key for key, value in config.items() if value is not None and key not in known and key not in passed]
    if unknown:
        said = ", ".join(f"{place}{key} = {config[key]!r:.60}" for key in sorted(unknown))
        raise PublishedError(
            f"config.json: {said}: not known, and may change what the model computes; known here are "
            f"{', '.join(sorted(known))}. Take the key out if it changes nothing, or take a model without it"
        )

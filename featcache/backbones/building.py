"""Files -> the built model, and sentences -> tokens: what open_clip does, with its failures put into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featcache.backbones.clip import open_clip_module
from featcache.backbones.files import Files, check_loads_safely, model_config
from featcache.backbones.names import FOLDER, Choice
from featcache.errors import ConfigError, DataError
from featcache.quieting import quiet

if TYPE_CHECKING:
    import torch


def build(choice: Choice, files: Files) -> torch.nn.Module:
    """The frozen model in evaluation mode, on the CPU, in the chosen precision.

    The precision is open_clip's: `bf16` and `fp16` cast the weights of convolutions, projections and attention, and
    leave normalisation in float32 (the manual mixed precision of OpenAI's own models), with no autocast.
    """
    import torch

    open_clip = open_clip_module()
    if files.checkpoint:
        check_loads_safely(files.checkpoint, choice.architecture)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            if choice.seed is not None:
                torch.manual_seed(choice.seed)
            model: torch.nn.Module = open_clip.create_model(
                _source(choice, files),
                load_weights=False,
                precision=choice.arithmetic,
                device="cpu",
                force_preprocess_cfg=files.preprocess,
                pretrained_text=False,
            )
            if files.checkpoint:
                _keep_scale(model)
                open_clip.load_checkpoint(model, str(files.checkpoint), weights_only=True)
    except ImportError as error:
        raise _lacks_package(f"the backbone {choice.architecture}", error) from error
    except Exception as error:  # torch.load, safetensors, the hub's client and open_clip each raise a tree of their own
        raise DataError(
            f"the weights {choice.weights} do not load into {choice.architecture}: {str(error)[:500]}"
        ) from error
    return model.eval().requires_grad_(False)


def tokenizer(choice: Choice, files: Files) -> Any:
    """The text tower's tokenizer. Raises ConfigError where a package is lacking, DataError where a file is."""
    text = model_config(choice, files)["text_cfg"]
    name = text.get("hf_tokenizer_name")
    # open_clip takes a folder's tokenizer from the folder, and a repository's from where its config says.
    of_folder = files.config and (choice.architecture.startswith(FOLDER) or not name)
    try:
        with quiet():
            return open_clip_module().get_tokenizer(_source(choice, files) if of_folder else choice.architecture)
    except ImportError as error:
        raise _lacks_package(f"the tokenizer of {choice.architecture}", error) from error
    except Exception as error:  # transformers and the hub's client raise trees of their own
        raise DataError(
            f"cannot load the tokenizer {name or 'of its own'} of {choice.architecture} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}); it is downloaded once: check the connection"
        ) from error


def tokens_of(tokenize: Any, sentences: Sequence[str], name: str) -> torch.Tensor:
    """(T, context) tokens. Raises DataError for sentences beyond the context, which tokenizers cut without a word.

    Told by the tokens that are no padding: with twice the context a cut sentence has more of them. That holds
    wherever a tokenizer puts its padding and its special tokens.
    """
    tokens: torch.Tensor = tokenize(list(sentences))
    context = tokens.shape[1]
    padding = tokenize([""], context_length=2 * context).mode().values  # (1,)
    uncut = tokenize(list(sentences), context_length=2 * context)
    cut = ((uncut != padding).sum(dim=1) > (tokens != padding).sum(dim=1)).nonzero().flatten().tolist()
    if cut:
        raise DataError(
            f"{len(cut)} of {len(sentences)} prompts are longer than the {context} tokens that {name} reads, first "
            f"{sentences[cut[0]][:120]!r}; shorten --template or the class names (--classnames FILE)"
        )
    return tokens


def _source(choice: Choice, files: Files) -> str:
    """What open_clip is to build: by name, or by the folder of the very config that was located."""
    return f"{FOLDER}{files.config.parent}" if files.config else choice.architecture


def _keep_scale(model: Any) -> None:
    """Hold the logit scale and bias in float32: for some towers open_clip casts them along, and 100 becomes 98.9."""
    for name in ("logit_scale", "logit_bias"):
        parameter = getattr(model, name, None)
        if parameter is not None:
            parameter.data = parameter.data.float()


def _lacks_package(what: str, error: ImportError) -> ConfigError:
    package = (error.name or "transformers").partition(".")[0]
    return ConfigError(f"{what} needs the package {package}: pip install {package}")

"""Checkpoints that attack whoever opens them, as changes to a copy of a sound one.

Code in them writes the canary, a file beside the folder; addresses in them are never answered.
"""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Spoil = Callable[[Path], None]
CANARY = "canary"
URL = "http://192.0.2.1:9/model"
CODE = "open({canary!r}, 'w').write('ran')"


class _Runs:
    """Unpickled, it writes the canary."""

    def __init__(self, canary: Path) -> None:
        self._code = CODE.format(canary=str(canary))

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self._code,)


def _payload(folder: Path) -> bytes:
    return pickle.dumps(_Runs(folder.parent / CANARY))


def _python(folder: Path) -> str:
    return CODE.format(canary=str(folder.parent / CANARY)) + "\n"


def _json(name: str, **values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **values}))

    return spoil


def _write(name: str, content: bytes | Callable[[Path], bytes]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content(folder))

    return spoil


def _all(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path) -> None:
        for each in spoils:
            each(folder)

    return spoil


def _remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def _header(change: Callable[[dict[str, Any]], object], *, text: str = "") -> Spoil:
    """Rewrite the safetensors header; ``text`` is put in front of its first key."""

    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        change(header)
        raw = ("{" + text + json.dumps(header)[1:]).encode()
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])

    return spoil


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(value for key, value in header.items() if key != "__metadata__")


def _overlap(header: dict[str, Any]) -> None:
    entries = [value for key, value in header.items() if key != "__metadata__"]
    entries[1]["data_offsets"] = entries[0]["data_offsets"]


def _index(weight_map: dict[str, Any]) -> Spoil:
    text = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    index = _write("model.safetensors.index.json", text)
    return _all(_remove("model.safetensors"), index)


def _special(name: str, make: Callable[[Path], None]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return spoil


def _outside(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        target = folder.parent / f"outside-{name}"
        (folder / name).rename(target)
        (folder / name).symlink_to(target)

    return spoil


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _template(text: str) -> Spoil:
    return _write("chat_template.jinja", text.encode())


def _bomb(folder: Path) -> None:
    with (folder / "tokenizer.json").open("wb") as stream:
        stream.truncate(2**31)


def _pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(_payload(folder))


ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
LOOP = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% if b < 0 %}x{% endif %}"
    "{% endfor %}{% endfor %}"
)
EMPTY = {"dtype": "F32", "data_offsets": [0, 0]}
AUTO = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}

REFUSED: dict[str, Spoil] = {
    "weights as a pickle": _pickled_only,
    "an index that names a pickle": _all(
        _write("evil.bin", _payload), _index({"model.norm.weight": "evil.bin"})
    ),
    "an index that leads out": _index({"model.norm.weight": "../outside.safetensors"}),
    "an index that names a device": _index({"model.norm.weight": "/dev/zero"}),
    "tensors that overlap": _header(_overlap),
    "offsets beyond the file": _header(lambda h: _first(h).update(data_offsets=[0, 2**60])),
    "a shape that the bytes cannot fill": _header(lambda h: _first(h).update(shape=[2**40])),
    "a dtype of another size": _header(lambda h: _first(h).update(dtype="F64")),
    "booleans as a shape": _header(lambda h: _first(h).update(shape=[True])),
    "a tensor that stands twice": _header(
        lambda h: None, text='"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},' * 2
    ),
    "a header of 2^62 bytes": _write("model.safetensors", struct.pack("<Q", 2**62) + b"{}"),
    "a Git LFS pointer": _write("model.safetensors", b"version https://git-lfs.github.com/spec/v1"),
    "a zip archive as weights": _write("model.safetensors", b"PK\x03\x04" + b"\0" * 999),
    "auto_map with code beside it": _all(
        _write("evil.py", lambda f: _python(f).encode()), _json("config.json", auto_map=AUTO)
    ),
    "auto_map deep inside": _json("config.json", text_config={"a": [{"auto_map": AUTO}]}),
    "trust_remote_code": _json("config.json", trust_remote_code=True),
    "a private key that names a kernel": _json(
        "config.json", _attn_implementation_internal="evil/kernel"
    ),
    "a kernel to download": _json("config.json", attn_implementation="evil/kernel"),
    "kernels to download, by part": _json(
        "config.json", experts_implementation={"text_config": "evil/kernel"}
    ),
    "another configuration to read": _all(
        _write("config.4.0.0.json", json.dumps({"auto_map": AUTO}).encode()),
        _json("config.json", configuration_files=["config.4.0.0.json"]),
    ),
    "other weights to read": _json("config.json", transformers_weights="evil.bin"),
    "custom generation code": _all(
        _write("custom_generate/generate.py", lambda f: _python(f).encode()),
        _json("generation_config.json", custom_generate=URL),
    ),
    "a tokenizer that names code": _json(
        "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}
    ),
    "another tokenizer to read": _json(
        "tokenizer_config.json", fast_tokenizer_files=["../../tokenizer.4.0.json"]
    ),
    "a vocabulary outside": _json("tokenizer_config.json", vocab_file="/etc/passwd"),
    "an adapter over a hostile base": _json(
        "adapter_config.json", base_model_name_or_path=URL, peft_type="LORA", r=8
    ),
    "a link out as weights": _outside("model.safetensors"),
    "a link out as configuration": _outside("config.json"),
    "a link out as template": _all(_template("x"), _outside("chat_template.jinja")),
    "a pipe as tokenizer": _special("tokenizer.json", os.mkfifo),
    "a pipe that nobody asked for": _special("added_tokens.json", os.mkfifo),
    "a device as tokenizer": _special("tokenizer.json", _device),
    "a tokenizer of 2 GiB": _bomb,
    "a tokenizer 10^5 brackets deep": _write("tokenizer.json", b"[" * 100_000),
    "a tokenizer with a key twice": _write("tokenizer.json", b'{"a": 1, "a": 2}'),
    "10^7 layers": _json("config.json", num_hidden_layers=10**7),
    "a vocabulary of 10^12": _json("config.json", vocab_size=10**12),
    "a width of 10^9": _json("config.json", hidden_size=10**9),
    "10^9 experts": _json("config.json", num_local_experts=10**9),
    "a template that breaks out": _template(ESCAPE),
    "a template that breaks out by a filter": _template("{{ ('a'|attr('__class__')).mro() }}"),
    "a template in the tokenizer that breaks out": _all(
        _remove("chat_template.jinja"),
        _json("tokenizer_config.json", chat_template=[{"name": "default", "template": ESCAPE}]),
    ),
    "a template that never ends": _template(LOOP),
    "a template of 10^11 characters": _template("{{ 'x' * 100000000000 }}"),
    "a template with a number of 10^9 digits": _template("{{ 10 ** (10 ** 9) }}"),
    "a template that is no text": _write("chat_template.jinja", b"\xff\xfe{{"),
    "an index that names an address": _index({"model.norm.weight": f"{URL}/a.safetensors"}),
    "an index that maps to a number": _index({"model.norm.weight": 7}),
    "an index whose map is a list": _all(
        _remove("model.safetensors"),
        _write("model.safetensors.index.json", b'{"weight_map": ["model.safetensors"]}'),
    ),
    "code in the settings of generation": _json(
        "generation_config.json", watermarking_config={"a": [{"auto_map": AUTO}]}
    ),
    "a template that calls the system": _template(
        "{{ cycler.__init__.__globals__.os.popen('touch canary') }}"
    ),
    "a template that breaks out by format": _template("{{ '{0.__class__.__mro__}'.format(1) }}"),
    "a template that breaks out by format_map": _template(
        "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}"
    ),
    "a template that changes its messages": _template("{{ messages.append(messages) }}"),
    "a number of 10^5 digits": _write("config.json", b'{"model_type": ' + b"9" * 100_000 + b"}"),
    "a configuration that is a folder": _special("config.json", Path.mkdir),
    "an MLmodel that makes objects": _all(
        _remove("config.json"),
        _write("MLmodel", b"flavors: !!python/object/apply:os.system ['touch canary']"),
    ),
    "an MLmodel whose flavors are a list": _all(
        _remove("config.json"), _write("MLmodel", b"flavors: [1]")
    ),
}
"""Refused when the folder is opened, before transformers sees it."""

CONTAINED: dict[str, Spoil] = {
    "a pickle beside the weights": _all(
        _write("pytorch_model.bin", _payload), _write("training_args.bin", _payload)
    ),
    "code that nothing names": _all(
        *(
            _write(name, lambda f: _python(f).encode())
            for name in ("torch.py", "sitecustomize.py", "modeling_llama.py", "__init__.py")
        )
    ),
    "an address as its own name": _json("config.json", _name_or_path=URL),
    "an address as its tokenizer's name": _json("tokenizer_config.json", name_or_path=URL),
    "architectures that are paths": _json("config.json", architectures=["../../evil.Evil"]),
    "a tokenizer class that is a path": _json("tokenizer_config.json", tokenizer_class="os.system"),
    "odd settings of generation": _json(
        "generation_config.json", assistant_model=URL, cache_implementation="x", num_beams=10**9
    ),
    "a dtype that is no dtype": _json("config.json", dtype="__class__"),
    "an architecture that nobody knows": _json("config.json", model_type="../../evil"),
    "a head of width zero": _json("config.json", head_dim=0),
    "no heads": _json("config.json", num_attention_heads=0),
    "a middle of 10^9": _json("config.json", intermediate_size=10**9),
    "a negative width": _json("config.json", hidden_size=-64),
    "a quantization that is not there": _json(
        "config.json", quantization_config={"quant_method": "gptq", "bits": 4, "model": URL}
    ),
    "a tokenizer with words of 10^12": _json(
        "tokenizer_config.json",
        added_tokens_decoder={str(10**12): {"content": "x", "special": True}},
    ),
    "a tokenizer that is an empty object": _write("tokenizer.json", b"{}"),
    "a template that reads a file": _template("{% include '/etc/passwd' %}"),
    "another template that breaks out": _all(
        _template("{{ messages[0].content }}"),
        _write("additional_chat_templates/tool_use.jinja", ESCAPE.encode()),
    ),
    "a tokenizer of its own code": _all(
        _write("tokenization_evil.py", lambda f: _python(f).encode()),
        _json("tokenizer_config.json", tokenizer_class="EvilTokenizer"),
    ),
    "a processor that names code": _all(
        _write("evil.py", lambda f: _python(f).encode()),
        _json("processor_config.json", auto_map={"AutoProcessor": "evil.Evil"}),
        _json("preprocessor_config.json", auto_map={"AutoProcessor": "evil.Evil"}),
    ),
    "a tokenizer that is a folder": _special("tokenizer.json", Path.mkdir),
    "metadata that is no object": _header(lambda h: h.update(__metadata__=[URL])),
    "a tensor of 2^63 rows of nothing": _header(
        lambda h: h.update({"../../evil": {**EMPTY, "shape": [2**63 - 1, 0]}})
    ),
    "numbers that are none": _json("config.json", rms_norm_eps=float("nan"), rope_theta=-1e308),
    "10^18 positions": _json("config.json", max_position_embeddings=10**18),
    "padding beyond all words": _json("config.json", pad_token_id=10**9, eos_token_id=-7),
    "an encoder": _json("config.json", model_type="t5", is_encoder_decoder=True),
    "kernels by another name": _json(
        "config.json", use_kernels=True, kernel_config={"RMSNorm": "evil/kernel:RMSNorm"}
    ),
    "quantized by objects": _json(
        "config.json",
        quantization_config={"quant_method": "torchao", "quant_type": {"_type": "os.system"}},
    ),
    "a rope of nonsense": _json("config.json", rope_parameters={"rope_type": "../../x"}),
}
"""Either refused with a reason by the loader, or assessed as if the trap were not there."""

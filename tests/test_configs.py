"""Settings with types: checked wherever they are made, flat and back, flags and help from fields and docstrings."""

import argparse
from dataclasses import dataclass, field, fields

import pytest

from cmg.cli import Parser, number, whole
from cmg.configs import Config, add_flags, components, flag_of, flat, helps, nearest, setting, with_values
from cmg.data.synthetic import SyntheticConfig
from cmg.errors import UserError
from cmg.methods import registry
from cmg.methods.codebook.objective import CodebookMethodConfig
from cmg.models.codebook import CodebookConfig
from cmg.models.semantic import EncoderConfig
from cmg.models.unified import ModelConfig
from cmg.optimisation import OptimiserConfig
from cmg.training.run_config import RunConfig


@dataclass(frozen=True)
class InnerConfig(Config):
    """Inner part.

    Attributes
    ----------
    size : N, of the part,
        in cells
    rates : of its layers
    """

    size: int = setting(4, whole(1))
    rates: list = setting((0.5, 1.0), number(above=0), several=True)


@dataclass(frozen=True)
class OuterConfig(Config):
    """Outer part, which holds others.

    Attributes
    ----------
    kind : of it
    fast : without looking back
    careful : looks back twice
    """

    kind: str = setting("a", choices=("a", "b"))
    fast: bool = setting(False)
    careful: bool = setting(True)
    inner: InnerConfig = field(default_factory=InnerConfig)
    terms: dict = field(default_factory=dict)


@dataclass(frozen=True)
class TermConfig(Config):
    """Term.

    Attributes
    ----------
    w_term : its weight
    """

    w_term: float = setting(1.0, number(least=0))


OUTER = OuterConfig(terms={"term": TermConfig(w_term=0.5)})
FLAT = {"kind": "a", "fast": False, "careful": True, "size": 4, "rates": [0.5, 1.0], "w_term": 0.5}


@pytest.mark.parametrize("make, line", [
    (lambda: EncoderConfig(dim=30), "--dim: '30' is not a multiple of 4 of at least 4 and below 2^31"),
    (lambda: EncoderConfig(dim=True), "--dim: 'True' is not a multiple of 4 of at least 4 and below 2^31"),
    (lambda: EncoderConfig(dim=32.5), "--dim: '32.5' is not a multiple of 4 of at least 4 and below 2^31"),
    (lambda: EncoderConfig(transformer="shard"), "--transformer: 'shard' is unknown; expected own, shared"),
    (lambda: EncoderConfig(input_dropout=float("nan")),
     "--input-dropout: 'nan' is not a number of at least 0 and below 1"),
    (lambda: OptimiserConfig(accumulate=True),
     "--accumulate: 'True' is not a whole number of at least 1 and below 2^31"),
    (lambda: OptimiserConfig(betas=[0.9, 1]), "--betas: '1' is not a number of at least 0 and below 1"),
    (lambda: OptimiserConfig(betas=[0.9]), "--betas 0.9: expected two numbers"),
    (lambda: OptimiserConfig(lr=None), "--lr: 'None' is not a number above 0 and below 100"),
    (lambda: OptimiserConfig(lr={}), "--lr: '{}' is not a number above 0 and below 100"),
    (lambda: OptimiserConfig(schedule=None), "--schedule: 'None' is not a text"),
    (lambda: RunConfig(out=3), "--out: '3' is not a text"),
    (lambda: RunConfig(modalities=["audio", 1]), "--modalities: '1' is not a text"),
    (lambda: RunConfig(compile=None), "--compile: 'None' is not true or false"),
    (lambda: SyntheticConfig(synthetic_clips=0),
     "--synthetic-clips: '0' is not a whole number of at least 1 and below 2^31"),
    (lambda: OptimiserConfig(betas="0.9"), "--betas: '0.9' is not a list"),
    (lambda: OptimiserConfig(decay_norms="no"), "--decay-norms: 'no' is not true or false"),
    (lambda: RunConfig(cache="ram"), "--cache: 'ram' is unknown; expected device, host, disk, auto"),
    (lambda: with_values(ModelConfig(), {"layers": 0}),
     "--layers: '0' is not a whole number of at least 1 and below 2^31"),
    (lambda: with_values(OUTER, {"sizes": 3}, strict=True), "sizes: no setting of OuterConfig; did you mean size?"),
])
def test_what_is_made_in_python_is_checked_as_flags_are(make, line):
    with pytest.raises(UserError) as refused:
        make()
    assert str(refused.value) == line


def test_values_are_brought_to_their_type():
    config = OptimiserConfig(lr=1, weight_decay="0.5", betas=("0.5", 0), batch_size=8.0)
    assert [type(value) for value in (config.lr, config.weight_decay, config.batch_size)] == [float, float, int]
    assert (config.lr, config.weight_decay, config.betas, config.batch_size) == (1.0, 0.5, [0.5, 0.0], 8)
    assert type(InnerConfig(rates=[1]).rates[0]) is float
    with pytest.raises(AttributeError):
        config.lr = 2  # frozen


def test_a_tree_is_a_flat_dict_and_back():
    assert flat(OUTER) == FLAT and list(components(OUTER)) == [OUTER, OUTER.inner, OUTER.terms["term"]]
    assert with_values(OuterConfig(terms={"term": TermConfig()}), FLAT) == OUTER
    changed = with_values(OUTER, {"size": 9, "w_term": 2, "kind": "b", "unknown": 1})
    assert flat(changed) == FLAT | {"size": 9, "w_term": 2.0, "kind": "b"} and flat(OUTER) == FLAT
    assert with_values(changed, flat(OUTER)) == OUTER


@pytest.mark.parametrize("method", [*registry.available(), "dcid+smit+mst+codis+turn"])
def test_every_preset_is_an_instance_that_goes_round(method):
    cls = registry.find(method)
    for recipe in cls.all_recipes().values():
        assert isinstance(recipe.method, cls.Config) and isinstance(recipe.optimiser, OptimiserConfig)
        settings = {**flat(recipe.method), **flat(recipe.optimiser), **flat(RunConfig())}
        parts = map(flat, (recipe.method, recipe.optimiser, RunConfig()))
        assert len(settings) == sum(map(len, parts))  # no name twice
        for config in (recipe.method, recipe.optimiser):
            assert with_values(config, settings) == config


def test_presets_set_what_they_say():
    presets = registry.find("unicode").all_recipes()
    assert list(presets) == ["paper", "official", "small"]
    assert presets["paper"].method.encoder == EncoderConfig() and presets["paper"].optimiser == OptimiserConfig()
    assert presets["official"].method.codebook == CodebookConfig(
        codebook_init="uniform", mm_ema="aligned", reset="any", reset_after=300)
    assert presets["small"].method.encoder == EncoderConfig(dim=128, layers=1)
    assert presets["small"].method.specific.specific_steps == 2 and presets["small"].epochs == 20
    assert isinstance(presets["small"].method, CodebookMethodConfig)


# -- flags -----------------------------------------------------------------------------------------------------------


def parsed(*argv, config=OUTER):
    parser = Parser(prog="test")
    add_flags(parser, config)
    return parser, vars(parser.parse_args(list(argv)))


def test_flags_come_from_fields_and_their_help_from_docstrings():
    parser, values = parsed()
    assert values == FLAT
    titles = [group.title for group in parser._action_groups[2:]]
    assert titles == ["Outer part, which holds others", "Inner part", "Term"]
    text = " ".join(parser.format_help().split())
    assert "--size SIZE N, of the part, in cells (default: 4)" in text and "(default: 0.5 1.0)" in text
    assert "--w-term W_TERM its weight (default: 0.5)" in text and "--fast without looking back" in text
    assert "--careful, --no-careful looks back twice (default: True)" in text
    assert helps(InnerConfig) == {"size": "N, of the part, in cells", "rates": "of its layers"}
    assert flag_of("w_term") == "--w-term"
    _, values = parsed("--size", "7", "--rates", "2", "3", "--fast", "--no-careful", "--kind=b", "--w_term", "0")
    assert values == {"kind": "b", "fast": True, "careful": False, "size": 7, "rates": [2.0, 3.0], "w_term": 0.0}


def test_every_setting_is_explained():
    for method in registry.available():
        for component in components(registry.recipe_of(registry.find(method)).method):
            said = helps(type(component))
            for one in fields(component):
                if not isinstance(getattr(component, one.name), Config | dict):
                    assert said.get(one.name), f"{type(component).__name__}.{one.name}"


def test_a_setting_without_a_word_about_it_is_refused():
    @dataclass(frozen=True)
    class Silent(Config):
        """Silent."""

        size: int = setting(4, whole(1))

    @dataclass(frozen=True)
    class Plain(Config):
        size: int = 4

    with pytest.raises(UserError, match="^Silent.size: expected a line `size : what it is` under Attributes"):
        add_flags(Parser(prog="test"), Silent())
    with pytest.raises(UserError, match=r"^size = 4: expected size = setting\(4, …\)"):
        Plain()


@pytest.mark.parametrize("argv, line", [
    (["--rate", "1"], "unrecognized arguments: --rate 1; did you mean --rates?"),
    (["--no_such_thing"], "unrecognized arguments: --no-such-thing"),
    (["--size", "0"], "argument --size: '0' is not a whole number of at least 1 and below 2^31"),
    (["--kind", "c"], "argument --kind: invalid choice: 'c' (choose from 'a', 'b')"),
])
def test_wrong_flags_are_one_line(capsys, argv, line):
    with pytest.raises(SystemExit) as stop:
        parsed(*argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"test: error: {line} (see --help)\n"


@pytest.mark.parametrize("name, known, found", [
    ("codebook_size", {"codes": "M, size of the codebook", "codebook_init": "where codes start"}, "codes"),
    ("--batchsize", ["--batch-size", "--size"], "--batch-size"),
    ("epoch", {"epochs": "passes", "checkpoint_epochs": "epochs between epoch_XXX.pt files"}, "epochs"),
    ("learning_rate", {"warmup": "steps in which the learning rate rises", "lr": "learning rate, highest"}, "lr"),
    ("colour", ["epochs", "steps"], None),
    ("--codes", {"--modalities": "default: all that the data holds"}, None),
    ("x", [], None),
    ("x", {"y": None}, None),
])
def test_the_nearest_name(name, known, found):
    assert nearest(name, known) == (f"; did you mean {found}?" if found else "")


def test_a_check_names_what_it_expects():
    with pytest.raises(argparse.ArgumentTypeError, match="'1.5' is not a whole number of at least 0"):
        whole()(1.5)
    assert whole()(2.0) == 2 and number(least=0)(0) == 0.0

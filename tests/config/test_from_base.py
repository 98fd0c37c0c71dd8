"""`Config.from_base` gives what a Kedro run without an environment gets."""

from operator import attrgetter

import pytest
from kedro.config import OmegaConfigLoader

from sage_dialog import config, settings
from sage_dialog.config import FineTuning, Parameters, RedditRules, SamplingConfig
from sage_dialog.config.parameters import UNAFFECTING


@pytest.fixture
def parameters(configured, monkeypatch) -> Parameters:
    loader = OmegaConfigLoader(str(configured / "conf"), env="base", **settings.CONFIG_LOADER_ARGS)
    return Parameters.model_validate(loader["parameters"])


def test_every_stage_has_the_values_of_conf_base(parameters: Parameters) -> None:
    values = {name: value for name, value in parameters if isinstance(value, config.Config)}
    del values["negotiation_rl"], values["self_play_rl"]  # of the type of offline_rl
    stages = list(values.values())
    assert len(stages) == 16
    assert [type(stage).from_base() for stage in stages] == stages


def test_nested_configs_have_the_values_of_conf_base(parameters: Parameters) -> None:
    assert RedditRules.from_base() == parameters.data_processing.rule_sets["paper"]
    assert FineTuning.from_base() == parameters.sft.training
    assert SamplingConfig.from_base(top_k=3) == parameters.evaluation.agent.model_copy(update={"top_k": 3})


def test_parameters_that_change_no_output_exist(parameters: Parameters) -> None:
    for name in UNAFFECTING:
        attrgetter(name)(parameters)

from __future__ import annotations

import pytest

from surefield.errors import ConfigError
from surefield.formats.kim_models import MODELS, find_driver, find_model
from surefield.potentials.parametric import StillingerWeber, Tersoff
from surefield.potentials.parametric.kim_id import parse_id


@pytest.mark.parametrize(
    "kim_id",
    [
        "SW_StillingerWeber_1985_Si__MO_405512056662_006",
        "SW_StillingerWeber_1985_Si__MO_405512056662_005",
        "SW_StillingerWeber_1985_Si__MO_405512056662",
        "SW_StillingerWeber_1985_Si",
        "MO_405512056662",
        "MO_405512056662_003",
    ],
)
def test_every_form_of_an_id_finds_the_model(kim_id):
    found = find_model(kim_id)
    assert found is MODELS["SW_StillingerWeber_1985_Si"]
    assert found.kim_id == "SW_StillingerWeber_1985_Si__MO_405512056662_006"


def test_other_ids_do_not():
    assert parse_id("EDIP_X__MO_958932894036_002") == ("EDIP_X", "MO_958932894036", "002")
    assert find_model("EDIP_JustoBazantKaxiras_1998_Si__MO_958932894036_002") is None
    assert find_model("nothing") is None
    with pytest.raises(ConfigError, match="number of SW_StillingerWeber_1985_Si, not of SW_Other"):
        find_model("SW_Other__MO_405512056662_006")


@pytest.mark.parametrize("name", ["SW__MD_335816936951_004", "SW__MD_335816936951", "SW", "StillingerWeber"])
def test_drivers_and_classes(name):
    driver = find_driver(name)
    assert driver is not None
    assert driver.cls is StillingerWeber
    assert find_driver("EDIP__MD_506186535567_002") is None


def test_every_known_model_can_be_made():
    numbers = {model.number for model in MODELS.values()}
    assert len(numbers) == len(MODELS) >= 20
    for model in MODELS.values():
        assert model.make().symbols == model.species
    # Tersoff's mixed parameters, as they are published in files.
    carbide = MODELS["Tersoff_LAMMPS_Tersoff_1989_SiC"].make()
    assert isinstance(carbide, Tersoff)
    assert float(carbide.values["B"][1]) == pytest.approx(395.14508945028996, rel=1e-14)
    assert float(carbide.values["Rc"][1]) == pytest.approx(2.3572604240535435, rel=1e-14)

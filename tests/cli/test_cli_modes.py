"""quant modes lists them; quant modes show prints a recipe that can be used."""

from __future__ import annotations

from quantcli import modes, recipe_reader


def test_every_mode_is_listed_with_what_it_promises(quant):
    done = quant("modes")
    assert done.code == 0
    for name in modes.names():
        row = next(line for line in done.out.splitlines() if line.split()[0] == name)
        about = modes.resolve(name).about
        assert all(words in row for words in (about.stores, about.computes, about.size, about.speed))


def test_a_shown_recipe_parses_to_the_same_recipe(quant):
    shown = quant("modes", "show", "int8-only")
    assert recipe_reader.parse(shown.out, where="stdout") == modes.resolve("int8-only")


def test_an_unknown_mode_is_2_with_a_near_name(quant):
    done = quant("modes", "show", "full-intger")
    assert done.code == 2
    assert "did you mean 'full-integer'" in done.err


def test_a_shown_recipe_converts(quant, convert, tmp_path):
    (tmp_path / "mine.yaml").write_text(quant("modes", "show", "int8-only").out)
    assert convert("--recipe", "mine.yaml", "--quiet").code == 0

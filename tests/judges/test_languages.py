"""Which language a text is in, and what is none or none that can be told."""

import pytest

from sails_eval.judges.languages import language


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "Take the lid off, turn it twice, and wait for ten minutes."),
        ("de", "Öffnen Sie zuerst den Deckel, drehen Sie ihn zweimal und warten Sie zehn Minuten."),
        ("fr", "Ouvrez d'abord le couvercle, tournez-le deux fois et attendez dix minutes."),
        ("fi", "Avaa ensin kansi, käännä sitä kaksi kertaa ja odota sitten kymmenen minuuttia."),
        ("sw", "Kwanza fungua kifuniko, kisha kizungushe mara mbili na usubiri dakika kumi."),
        ("ru", "Сначала откройте крышку, затем поверните её два раза и подождите десять минут."),
        ("ja", "まずふたを開けて、二回回して、それから十分間待ってください。"),
        ("th", "ก่อนอื่นให้เปิดฝา แล้วหมุนสองครั้ง จากนั้นรอสิบนาที"),
        ("vi", "Trước tiên hãy mở nắp, xoay hai lần rồi chờ mười phút trước khi đóng lại."),
    ],
)
def test_a_sentence_or_two_are_enough(code: str, text: str) -> None:
    assert language(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ja, gern.",
        "抱歉，我不能。",
        "12 45 78 99 1 2 3 4 5 6 7 8 9",
        "Hans Müller, Fritz Schmidt, Karl Becker, Otto Fischer, Heinz Weber",
        "Maria Garcia, José Hernández, Juan Carlos Rodríguez, Ana Sofía Martínez",
        "Paris, Berlin, Madrid, Roma, Lisboa, Warszawa, Amsterdam, Wien, Praha",
        "Sure, here it is: pasta carbonara, risotto alla milanese, tiramisu, gelato, panna cotta",
        "blorp snik frazzle wug toma plindle greb snork vatch lomi tren quib",
        "kalo miru senta pola venti rosu tamel dorin pelka vosti",
        "use item lamp with part rope in zone cellar and then open door",
        "sodium chloride, potassium nitrate, ammonium sulfate, calcium carbonate, magnesium oxide",
        "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor",
        "import os\nimport sys\nfrom pathlib import Path\nprint(os.listdir(Path.cwd()))",
        "SELECT name, age FROM users WHERE age > 30 ORDER BY name;",
        "<html><body><div class='a'><p>text</p></div></body></html>",
        "```\nOuvrez d'abord le couvercle, tournez-le deux fois et attendez dix minutes.\n```",
        "Read books about the topic to learn.\n不断地阅读关于这个话题的书籍，可以让你更快地了解它。",
        "'Guten Morgen, wie geht es dir heute?' means 'Good morning, how are you today?' in German.",
    ],
)
def test_nothing_else_is_called_foreign(text: str) -> None:
    assert language(text) in (None, "en")

"""What evidence decides and what is asked: nothing without a fact is written, nothing that a fact answers is asked."""

from __future__ import annotations

import pytest

from saidata.check import verdicts
from saidata.check.versions import upstream
from saidata.errors import Misuse
from saidata.facts import Evidence
from saidata.format.schema import mistakes
from saidata.generate.category import CATEGORIES, SECTIONS
from saidata.generate.naming import apart, logical, purpose
from saidata.generate.plan import Limits, main_package, plan
from saidata.generate.skeleton import drop, get, put
from saidata_making import fact, webthing


def asked(evidence: Evidence) -> list[str]:
    return [question.key for question in plan(evidence).questions]


def test_every_fact_stands_in_the_file_and_is_confirmed():
    data = plan(webthing()).data
    assert [each["package_name"] for each in data["packages"]] == ["webthing", "webthing-common"]
    assert data["packages"][0] == {"name": "webthing", "package_name": "webthing", "version": "1:2.4.1+dfsg-3"}
    assert data["services"] == [
        {"name": "webthing", "service_name": "webthing", "type": "systemd", "config_files": ["/etc/webthing/webthing.conf"]}
    ]
    assert [each["path"] for each in data["files"]] == ["/etc/webthing/webthing.conf", "/etc/default/webthing"]
    assert data["commands"] == [
        {
            "name": "webthing",
            "path": "/usr/sbin/webthing",
            "shell_completion": True,
            "man_page": "/usr/share/man/man8/webthing.8.gz",
        }
    ]
    assert data["ports"] == [{"port": 80, "protocol": "tcp"}]
    assert data["metadata"] == {
        "name": "webthing",
        "version": "2.4.1",
        "license": "BSD-2-Clause",
        "urls": {"website": "https://webthing.example.org/"},
        "language": "C",
    }
    assert not mistakes(data, strict=True)
    assert {verdict.status for verdict in verdicts(data, webthing())} == {"confirmed"}


@pytest.mark.parametrize(
    ("kind", "place", "field"),
    [
        ("licence", ("metadata", "license"), "metadata.license"),
        ("port", ("ports",), "ports"),
        ("unit", ("services",), None),
        ("config", ("files",), None),
        ("command", ("commands",), None),
        ("homepage", ("metadata", "urls"), "metadata.urls"),
    ],
)
def test_what_no_fact_bears_out_is_left_out_and_never_asked(kind, place, field):
    skeleton = plan(webthing(without=(kind,)))
    assert get(skeleton.data, place) is None
    assert skeleton.question(place) is None
    if field:
        assert field in skeleton.abstained


def test_a_software_that_nothing_describes_gets_no_prose():
    assert asked(Evidence(name="riddle", snapshot="s1")) == []
    assert asked(webthing(without=("summary", "description"))) == []
    skeleton = plan(Evidence(name="riddle", snapshot="", not_checked={"apt": "there is no index"}))
    assert skeleton.data == {"version": "0.3", "metadata": {"name": "riddle"}}
    assert skeleton.abstained["packages"] == "not checked: apt: there is no index"


def test_several_candidates_are_a_question_with_a_way_out():
    paths = ("/etc/default/webthing", "/etc/webthing/first.cf", "/etc/webthing/second.cf")
    skeleton = plan(webthing(*(fact("config", path) for path in paths), fact("tag", "implemented-in::perl"), without=("config",)))
    config = skeleton.question(("services", 0, "config_files"))
    assert config is not None and config.allowed == paths
    assert None in config.schema["enum"]
    language = skeleton.question(("metadata", "language"))
    assert language is not None and language.allowed == ("C", "Perl")
    filled = skeleton.filled({"config_file": "/etc/webthing/first.cf", "language": None})
    assert filled["services"][0]["config_files"] == ["/etc/webthing/first.cf"]
    assert "language" not in filled["metadata"] and skeleton.data["services"][0].get("config_files") is None


@pytest.mark.parametrize(
    ("paths", "main"),
    [
        (("/etc/default/webthing", "/etc/webthing/webthing.yml", "/etc/webthing/users.yml"), "/etc/webthing/webthing.yml"),
        (("/etc/webthing/master.cf", "/etc/webthing/main.cf"), "/etc/webthing/main.cf"),
        (("/etc/webthing/users", "/etc/webthing/thing.conf", "/etc/webthing/parts.d/a.conf"), "/etc/webthing/thing.conf"),
        (("/etc/webthing/webthingd.conf", "/etc/webthing/other.conf"), "/etc/webthing/webthingd.conf"),
        (("/etc/webthing.conf", "/etc/webthing/other.conf"), "/etc/webthing.conf"),
        (("/etc/letters/renewed/webthing", "/etc/webthing/thing.conf"), "/etc/webthing/thing.conf"),
        (("/etc/apache2/conf-available/webthing.conf", "/etc/wt/wt.conf", "/etc/wt/conf.d/1.conf"), "/etc/wt/wt.conf"),
        (("/etc/news/other.conf", "/etc/news/webthing.conf"), "/etc/news/webthing.conf"),
        (("/etc/webthing/README", "/etc/default/webthing"), "/etc/default/webthing"),
        (("/etc/pam.d/webthing", "/etc/default/webthing"), "/etc/default/webthing"),
    ],
)
def test_a_services_configuration_is_decided_where_its_name_points_to_it(paths: tuple[str, ...], main: str):
    skeleton = plan(webthing(*(fact("config", path) for path in paths), without=("config",)))
    assert skeleton.data["services"][0]["config_files"] == [main]


def test_files_in_other_programs_folders_are_no_candidates_where_it_has_its_own():
    paths = ("/etc/webthing/first.cf", "/etc/webthing/second.cf", "/etc/letters/renewed/webthing")
    config = plan(webthing(*(fact("config", path) for path in paths), without=("config",))).question(
        ("services", 0, "config_files")
    )
    assert config is not None and config.allowed == paths[:2]


def test_the_section_narrows_the_category_and_decides_it_where_one_is_left():
    assert plan(webthing()).question(("metadata", "category")).allowed == SECTIONS["net"]
    server = webthing(fact("section", "httpd"), without=("section",))
    assert plan(server).data["metadata"]["category"] == "web" and "category" not in asked(server)
    assert plan(webthing(without=("section",))).question(("metadata", "category")).allowed == CATEGORIES
    assert {each for allowed in SECTIONS.values() for each in allowed} <= set(CATEGORIES)


def test_a_slice_is_no_service():
    services = plan(webthing(fact("unit", "system-webthing.slice"), fact("unit", "webthing.timer"))).data["services"]
    assert [entry["service_name"] for entry in services] == ["webthing", "webthing.timer"]


def test_what_the_user_wrote_stands_and_is_not_asked():
    given = {"metadata": {"name": "webthing", "display_name": "My Thing", "license": "MIT"}, "ports": [{"port": 8080}]}
    skeleton = plan(webthing(), given=given)
    assert skeleton.data["metadata"]["license"] == "MIT" and skeleton.data["ports"] == [{"port": 8080}]
    assert skeleton.data["commands"], "what he did not write is filled in"
    assert "display_name" not in [question.key for question in skeleton.questions]
    assert ("metadata", "license") in skeleton.given and ("metadata", "name") not in skeleton.given


def test_limits_cut_the_lists_and_the_best_stay():
    evidence = webthing(*(fact("command", f"/usr/bin/tool{number}") for number in range(20)))
    data = plan(evidence, Limits(commands=3)).data
    assert [each["name"] for each in data["commands"]] == ["webthing", "tool0", "tool1"]


def test_the_main_package_is_the_one_called_so_else_the_best_candidate():
    assert main_package(webthing()) == "webthing"
    other = webthing(name="webthing-server")
    assert main_package(Evidence(name="wt", snapshot="", candidates=other.candidates, facts=other.facts)) == "webthing-server"
    assert main_package(Evidence(name="wt", snapshot="")) is None
    data = plan(Evidence(name="wt", snapshot="", candidates=other.candidates, facts=other.facts)).data
    assert data["packages"][0]["name"] == "wt" and data["packages"][0]["package_name"] == "webthing-server"


def test_other_providers_have_their_own_names():
    data = plan(webthing(fact("package", "WebThing.WebThing", provider="winget"))).data
    assert data["providers"]["winget"]["packages"] == [{"name": "webthing", "package_name": "WebThing.WebThing"}]
    assert "WebThing.WebThing" not in [each["package_name"] for each in data["packages"]], "the list on top is of one provider"
    assert data["compatibility"]["matrix"] == [
        {"provider": "apt", "platform": "debian", "os_version": "bookworm", "supported": True}
    ]


def test_evidence_without_a_name_is_refused():
    with pytest.raises(Misuse, match="no name"):
        plan(Evidence(name="", snapshot=""))


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("1:7.0.15-1~deb12u1", "7.0.15"),
        ("1.22.1-9+deb12u2", "1.22.1"),
        ("2.4.1+dfsg-3", "2.4.1"),
        ("5", "5"),
        ("1.0-rc1-2", "1.0-rc1"),
    ],
)
def test_upstream_versions(version, wanted):
    assert upstream(version) == wanted


def test_names_of_files_are_short_and_unique():
    paths = ["/etc/webthing/webthing.conf", "/etc/default/webthing", "/etc/webthing/mime.types", "/etc/webthing/sub/mime.types"]
    names = apart((logical(path, "webthing"), path) for path in paths)
    assert names[0] == "config" and len(set(names)) == len(names) and names[2] == "mime-types"
    assert apart([("a", "/a"), ("a", "/a"), ("a", "/a")]) == ["a", "a-2", "a-3"]
    assert (purpose("/var/log/x"), purpose("/var/lib/x"), purpose("/opt/thing")) == ("log", "data", "thing")


def test_places_are_set_read_and_dropped():
    data: dict = {"a": [{"b": 1}, {"c": 2}]}
    put(data, ("d", "e"), 3)
    assert get(data, ("a", 1, "c")) == 2 and get(data, ("a", 5, "c")) is None and get(data, ("d", "e")) == 3
    drop(data, ("a", 1, "c"))
    assert data["a"] == [{"b": 1}], "an entry that is empty then goes too"
    drop(data, ("d", "e"))
    assert "d" not in data

"""Every registry does what the registry crate's tests ask of one."""

import re
import subprocess

import pytest
from registries import Etcd
from throwaway import PROJECT, clean_environment

SUITE = PROJECT / "crates/registry/tests/contract.rs"


def contract(registry, kind, only=""):
    """Run that suite on a registry, or those of its tests whose names have a part in common."""
    done = subprocess.run(
        ["cargo", "test", "-p", "snowflake-registry", "--test", "contract", "--", only],
        cwd=PROJECT,
        env=clean_environment({"SNOWFLAKE_REGISTRY": registry.pattern(), "CARGO_TERM_COLOR": "never"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    status, output = done.returncode, done.stdout
    assert status == 0, output
    tests = re.findall(r"#\[tokio::test\]\nasync fn (\w+)", SUITE.read_text())
    passed = sum(only in test for test in tests)
    (result,) = re.findall(r"test result: (.*)", output)
    assert passed
    assert result.startswith(
        f"ok. {passed} passed; 0 failed; 0 ignored; 0 measured; {len(tests) - passed} filtered out; "
    )
    print(f"{kind}: {result}")


def test_contract(registry):
    contract(registry, registry.SCHEME)


@pytest.mark.once("no server takes part")
@pytest.mark.parts("etcd")
def test_contract_with_tls_and_a_password(start_registry, certificates):
    """Every call gets through, by a password that has to be spelled otherwise in an address.

    Without the crowds: their many handshakes are slow in code that is not optimised.
    """
    registry = start_registry(Etcd, certificates=certificates, password="s:ecret/@%")
    contract(registry, "etcd with TLS and a password", only="a_number_is")

"""Only a name that means exactly one SPDX licence becomes it; nothing is guessed from a likeness."""

from __future__ import annotations

import pytest

from saidata.sources.licences import to_spdx


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("LGPL-2", "LGPL-2.0-only"),
        ("AGPL-3", "AGPL-3.0-only"),
        ("Expat", "MIT"),
        ("MIT License", "MIT"),
        ("bsd-3-clause", "BSD-3-Clause"),
        ("Apache-2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("Artistic or GPL-1+", "Artistic-1.0-Perl OR GPL-1.0-or-later"),
        ("GPL-1+ or Artistic", "Artistic-1.0-Perl OR GPL-1.0-or-later"),  # one order: equal licences compare equal
        ("GPL-2+ or AFL-2.1, and Expat", "MIT AND (AFL-2.1 OR GPL-2.0-or-later)"),  # the comma binds looser
        ("GPL-2+ and (MIT or ISC)", "GPL-2.0-or-later AND (ISC OR MIT)"),
        ("GPL-2 with Linux-syscall-note exception", "GPL-2.0-only WITH Linux-syscall-note"),
        ("Apache-2.0 with LLVM exception", "Apache-2.0 WITH LLVM-exception"),
        ("GPL-2+ with OpenSSL exception", "LicenseRef-GPL-2-or-later-with-OpenSSL-exception"),  # a different text each time
        ("public-domain", "LicenseRef-public-domain"),
        ("BSD-3-clause-google", "LicenseRef-BSD-3-clause-google"),
        ("GPL", "GPL-1.0-or-later"),  # its own rule: of no version means of any
        ("Apache", "LicenseRef-Apache"),
        ("other", ""),
        ("", ""),
        ("x" * 500, ""),
        ("( and", ""),
    ],
)
def test_names(text: str, spdx: str) -> None:
    assert to_spdx(text) == spdx


def test_an_answer_is_its_own_name() -> None:
    for text in ("GPL-2.0-or-later", "Artistic-1.0-Perl OR GPL-1.0-or-later", "LicenseRef-PoWA", "MIT AND (ISC OR Zlib)"):
        once = to_spdx(text)
        assert to_spdx(once) == once != ""

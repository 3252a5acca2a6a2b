"""Which categories a software can be of: what its section in the archive leaves, and what the words of its summary say.

A summary is one line written to say what a package is, so a word such as "backup" or "resolver" in it says more than a small
model's guess, which tends to what is broad. Words decide where they speak for one category that the section leaves, or for one
that it does not where they speak for none of those; where they speak for several the model chooses among them, and where they say
nothing among all that the section leaves. Open `categories`.
"""

from __future__ import annotations

import re

from saidata.facts import Evidence

CATEGORIES = (
    *("web", "database", "messaging", "mail", "dns", "networking", "security", "monitoring", "logging", "storage", "backup"),
    *("virtualization", "containers", "infrastructure", "version-control", "development", "programming-language", "library"),
    *("editor", "shell", "file-management", "text-processing", "multimedia", "graphics", "office", "publishing", "science"),
    *("education", "games", "communication", "desktop", "system", "hardware", "other"),
)

# What the archive's section leaves of the categories; a section that is not here says nothing. One alone is not asked.
_NETWORK = (
    *("networking", "dns", "web", "mail", "messaging", "communication", "security", "monitoring", "storage", "infrastructure"),
    *("logging", "database", "hardware"),
)
_ADMIN = (
    *("system", "monitoring", "logging", "backup", "storage", "security", "infrastructure", "containers", "virtualization"),
    *("networking", "file-management", "database", "hardware", "shell"),
)
_UTILITY = (
    *("system", "file-management", "text-processing", "development", "storage", "backup", "security", "hardware", "monitoring"),
    *("networking", "shell", "multimedia", "office", "science", "containers", "virtualization", "infrastructure", "database"),
    *("logging", "other"),
)
_CODE = ("development", "programming-language", "library", "text-processing", "web", "science")
_DESKTOP = ("desktop", "system", "communication", "multimedia", "office", "development", "games", "graphics", "file-management")
SECTIONS: dict[str, tuple[str, ...]] = {
    "admin": _ADMIN,
    "cli-mono": _CODE,
    "comm": ("communication", "messaging", "networking", "hardware"),
    "database": ("database",),
    "devel": ("development", "programming-language", "version-control", "library", "infrastructure", "hardware"),
    "editors": ("editor",),
    "education": ("education",),
    "electronics": ("science", "hardware", "development"),
    "embedded": ("hardware", "development", "system"),
    "fonts": ("publishing",),
    "games": ("games",),
    "gnome": _DESKTOP,
    "golang": _CODE,
    "graphics": ("graphics",),
    "hamradio": ("communication", "hardware"),
    "haskell": _CODE,
    "httpd": ("web",),
    "interpreters": ("programming-language",),
    "java": _CODE,
    "javascript": _CODE,
    "kde": _DESKTOP,
    "kernel": ("system", "hardware"),
    "libs": ("library",),
    "libdevel": ("library",),
    "lisp": _CODE,
    "mail": ("mail",),
    "math": ("science",),
    "net": _NETWORK,
    "news": ("communication",),
    "ocaml": _CODE,
    "perl": _CODE,
    "php": _CODE,
    "python": _CODE,
    "ruby": _CODE,
    "rust": _CODE,
    "science": ("science",),
    "shells": ("shell",),
    "sound": ("multimedia",),
    "tex": ("publishing",),
    "text": ("text-processing", "publishing", "editor", "office"),
    "utils": _UTILITY,
    "vcs": ("version-control",),
    "video": ("multimedia",),
    "web": ("web", "networking", "communication", "publishing", "monitoring", "infrastructure", "database", "security"),
    "x11": ("desktop", "graphics", "system", "hardware"),
    "xfce": ("desktop",),
    "zope": ("web",),
}

# Words of a summary that speak for a category, as they begin; "+" ends a word that must stand alone.
WORDS: dict[str, str] = {
    "web": "web-?server web-?site web-?app http+ https+ wsgi fastcgi cgi+ browser wiki blog cms+ rss+ url-shortener",
    "database": "database sql+ mysql postgresql mongodb rdbms key-value data-store datastore object-cach memory-cach nosql",
    "messaging": "message-broker message-queu message-bus amqp mqtt publish/subscribe pub/sub job-queue",
    "mail": "mail e-mail email smtp imap pop3 mta+ spam dkim mailing-list",
    "dns": "dns+ dnssec domain-name name-?server resolver",
    "networking": (
        "network tcp+ udp+ ip+ ipv4 ipv6 router routing proxy vpn tunnel dhcp ftp tftp snmp ntp+ time-protocol load-balanc "
        "bandwidth packet wireless wifi wi-fi ethernet ping+ port-forward download transferring bittorrent ppp+ socks internet url+ telnet"
    ),
    "security": (
        "firewall intrusion encrypt decrypt cryptograph crypto+ authenticat password certificate antivirus anti-virus malware "
        "vulnerab ban+ brute-force forensic security-audit security-scan security-test sandbox rootkit privacy anonym openpgp gnupg pki+ two-factor otp+ kerberos ldap radius "
        "ssl+ audit honeypot exploit fuzzer hardening"
    ),
    "monitoring": "monitor metric alert exporter nagios zabbix prometheus munin statistics-collect availability performance-data graphing uptime watch+",
    "logging": "log+ logs+ logging syslog logfile journal+ log-analy",
    "storage": (
        "filesystem file-system disk raid lvm nfs+ storage block-device partition nbd+ iscsi fuse+ mount+ mounting automount volume smart+ btrfs xfs+ ext4 nas+ quota"
    ),
    "backup": "backup back-up deduplicat snapshot archival restore+",
    "virtualization": "virtual-machine virtuali hypervisor qemu kvm+ xen+ emulator vm+ vms+ guest",
    "containers": "container docker oci+ pods? kubernetes lxc+ lxd+",
    "infrastructure": "configuration-management orchestrat deploy provisioning cluster cloud fleet infrastructure high-availability failover",
    "version-control": "version-control revision-control git+ subversion mercurial cvs+ source-code-management repositor",
    "development": (
        "debug build-system build-tool profil static-analy lint source-code programming developer development test-suite unit-test "
        "software-development code-generator disassembl api+ sdk+ bug-track continuous-integration makefile cross-compil"
    ),
    "programming-language": "compiler interpreter programming-language scripting-language virtual-machine-for bytecode",
    "library": "library libraries bindings module",
    "editor": "editor",
    "shell": "shell terminal multiplexer command-line-fuzzy prompt",
    "file-management": "file-manager duplicate-file rename-file synchroni archiver compress decompress unpack directory-listing file-transfer file-copying",
    "text-processing": (
        "text regex regular-expression json xml+ csv+ yaml markdown grep search diff+ word+ spell unicode pattern fuzzy pager html+ string parser"
    ),
    "multimedia": (
        "audio video music media player sound codec mp3 stream midi radio tv+ dvd+ cd+ subtitle transcod podcast multimedia webcam dlna upnp-av"
    ),
    "graphics": "image photo graphics+ drawing picture render 3d+ svg+ screenshot",
    "office": "spreadsheet word-processor office calendar financ accounting presentation todo invoice task-list address-book contacts time-tracking",
    "publishing": "tex+ latex typeset pdf postscript ebook e-book font docbook document publishing bibliograph",
    "science": (
        "scientific science mathemat statistical chemi physics astronom genom dna+ rna+ sequence molecul biolog gis+ plot simulat calculator numerical geograph"
    ),
    "education": "learn teach education children typing-tutor flashcard quiz school",
    "games": "game arcade puzzle chess solitaire tetris",
    "communication": (
        "chat+ irc+ instant-messag xmpp jabber voip sip+ telephon phone sms+ conferenc bbs+ matrix+ fax modem mumble usenet nntp gateway-between messenger"
    ),
    "desktop": "window-manager desktop applet x11 wayland clipboard wallpaper tray screensaver panel login-manager display-manager gtk+ gui+ on-screen",
    "system": "kernel boot init+ process cron scheduling scheduler system-information user-account package-manag service-manag locale systemd dbus d-bus sysctl swap memory-usage",
    "hardware": (
        "printer printing usb+ scanner bluetooth sensor firmware driver cpu+ gpu+ keyboard serial gps+ smart-?card battery power+ fan+ ups+ uninterruptible "
        "temperature mouse joystick infrared laptop acpi bios+ thermal fingerprint touchpad tablet hardware device"
    ),
}
BROAD = (
    "networking",
    "system",
    "hardware",
    "library",
)  # the field that a software works in, where another word says what it does there


def _pattern(words: str) -> re.Pattern[str]:
    gap = {"-?": "[ -]?", "-": "[ -]"}
    ways = (
        re.sub(r"-\??", lambda found: gap[found[0]], word.rstrip("+")) + r"(?![\w-])" * word.endswith("+")
        for word in words.split()
    )
    return re.compile(rf"(?<![\w-])(?:{'|'.join(ways)})")


_PATTERNS = {category: _pattern(words) for category, words in WORDS.items()}


def categories(evidence: Evidence) -> tuple[str, ...]:
    """The categories that its section and its summary leave open."""
    section = next(iter(evidence.values("section", provider="apt")), "")
    left = SECTIONS.get(section.rpartition("/")[2], CATEGORIES)
    if len(left) == 1:
        return left
    summary = next(iter(evidence.values("summary")), "").lower()
    return _said(summary, left) or _said(summary, tuple(each for each in CATEGORIES if each not in BROAD)) or left


def _said(summary: str, left: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `left` that most words of the summary speak for."""
    counts = {category: len(set(_PATTERNS[category].findall(summary))) for category in left if category in _PATTERNS}
    telling = {category: count for category, count in counts.items() if count and category not in BROAD}
    said = telling or {category: count for category, count in counts.items() if count}
    most = max(said.values(), default=0)
    return tuple(category for category in left if said.get(category) == most) if most else ()

"""A family of configurations with every kind of fault and their faultless neighbours, for checker and Traefik alike.

The family is made from lists of values that go into the same places, so that for each fault there are forms close by
that are none. Who reads it says for each member whether it is refused.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

_ATOMS = [
    "Host(`a.test`)", 'Host("a.test")', "host(`a.test`)", "HOST(`a.test`)", "Hostregexp(`^a$`)", "HostRegExp(`a`)",
    "Host(`*.a.test`)",
    "Host(`a`, `b`)", "Host()", "Host(``)", "Host(`ä.test`)", "Host('a.test')", "Host(a.test)", "Host(`a`,)",
    "Host(`a`", "Host`a`)", "Host[`a`]", "HostHeader(`a`)", "HostSNI(`a`)", "Host", "`a`", "5", "",
    "Path(`/a`)", "Path(`a`)", "Path(`/a`, `/b`)", "PathPrefix(`/`)", "PathPrefix(``)", "PathPrefix(`*`)",
    "PathRegexp(`^/a/[0-9]+$`)", "PathRegexp(`(`)", "PathRegexp(`[a`)", "PathRegexp(`(?!a)b`)",
    "PathRegexp(`(?i)^/a`)",
    r"PathRegexp(`\d+\.\w`)", r'PathRegexp("\\d+")', r'PathRegexp("\d+")', "PathRegexp(`a{2,1}`)",
    "PathRegexp(`a**`)", "PathRegexp(`*a`)",
    r"PathRegexp(`(a)\1`)", r"PathRegexp(`\pL+`)", "PathRegexp(`[[:alpha:]]+`)", "PathRegexp(`(?P<id>a)`)",
    "PathRegexp(`(?<id>a)`)",
    "PathRegexp(`a{1001}`)", "PathRegexp(`x{,3}`)", "PathRegexp(`a|*`)", "PathRegexp(`)`)", r"PathRegexp(`a\`)",
    "PathRegexp(`(?>a)`)",
    "PathRegexp(`a++`)", r"PathRegexp(`\z`)", r"PathRegexp(`\Z`)", "PathRegexp(`(?#x)a`)", "PathRegexp(`[z-a]`)",
    "PathRegexp(`[]a]`)",
    "Method(`GET`)", "Method(`GET`, `POST`)", "Header(`a`, `b`)", "Header(`a`)", "Headers(`a`, `b`)",
    "HeadersRegexp(`a`, `b`)",
    "HeaderRegexp(`a`, `b.*`)", "HeaderRegexp(`a`, `(`)", "Query(`a`)", "Query(`a`, `b`)", "Query(`a`, `b`, `c`)",
    "QueryRegexp(`a`, `[`)",
    "QueryRegexp(`[`)", "ClientIP(`10.0.0.0/8`)", "ClientIP(`::1`)", "ClientIP(`10.0.0.0/33`)", "ClientIP(`host`)",
    "ClientIP(`010.0.0.1`)",
    "Host:a.test", "Host:a.test;PathPrefix:/b", "PathPrefix:/a", "Foo(`a`)", "ALPN(`h2`)",
]  # fmt: skip
_JOINED = [
    "%s && %s", "%s || %s", "!%s && %s", "!(%s || %s)", "(%s) && (%s)", "((%s || %s))", "%s&&%s", "%s ||\n  %s",
    "%s\n  && %s",
    "%s && && %s", "%s & %s", "%s and %s", "%s, %s", "%s %s", "(%s && %s", "%s && %s)", "%s == %s", "!!%s || %s",
    "%s ! %s",
    "%s && // why\n %s", "%s /* why */ && %s", "%s; %s", "%s && %s\n", "%s || !%s",
]  # fmt: skip
_GOOD = ["Host(`a.test`)", "PathPrefix(`/b`)", "Method(`GET`)", "ClientIP(`::1`)"]

_TCP = [
    "HostSNI(`*`)", "HostSNI(`a.test`)", "HostSNI(`a`, `b`)", "HostSNI(`a b`)", "HostSNI(`*.a.test`)", "Host(`a`)",
    "HostSNI:a",
    "HostSNIRegexp(`^a`)", "HostSNIRegexp(`(`)", "ClientIP(`10.0.0.1`)", "ClientIP(`x`)", "ALPN(`h2`)",
    "ALPN(`acme-tls/1`)", "",
    "HostSNI(`*`) && ClientIP(`10.0.0.0/8`)", "HostSNI(`ä.test`)",
]  # fmt: skip


def rules(seed: int, joined: int = 120) -> dict[str, list[str]]:
    """Rules of routers by protocol: every atom, and some of them joined in every way."""
    source = random.Random(seed)
    found = list(_ATOMS)
    for form in _JOINED:
        found.append(form % tuple(source.choices(_GOOD, k=2)))
    for _ in range(joined):
        parts = (source.choice(_ATOMS), source.choice(_GOOD))
        found.append(source.choice(_JOINED) % (parts if source.random() < 0.5 else parts[::-1]))
    return {"http": list(dict.fromkeys(found)), "tcp": _TCP}


_SERVICES = "  services: {s: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}}\n"
_ROUTED = (
    "http:\n  routers: {r: {rule: Host(`a`), service: s, middlewares: [m]}}\n"
    + _SERVICES
    + "  middlewares:\n    m: {%s}\n"
)
_MIDDLEWARES = [
    "compress: {}", "compress: ", "compress: true", "stripPrefix: {}", "stripPrefix: {prefixes: [/a]}",
    "stripPrefix: {prefixes: []}",
    "retry: {}", "retry: {attempts: 2}", "retry: {attempts: two}", "retry: {attempts: '2'}", "retry: {attempts: 2.5}",
    "retry: {attempts: 2.0}", "retry: {attempts: '2.0'}", "retry: {attempts: 0x2}", "retry: {attempts: [2]}",
    "retry: {attempts: true}",
    "retry: {attempts: 2, initialInterval: 100ms}", "retry: {attempts: 2, initialInterval: 100 ms}",
    "retry: {attempts: 2, initialInterval: 1d}", "retry: {attempts: 2, initialInterval: 5}",
    "retry: {attempts: 2, initialInterval: 1m30s}",
    "retry: {attempts: 2, initialInterval: 1.5}", "retry: {attempts: 2, initialInterval: .5s}",
    "retry: {attempts: 2, initialInterval: ''}",
    "retry: {attempts: 2, initialInterval: }", "compress: {}, retry: {attempts: 2}",
    "compress: , retry: {attempts: 2}",
    "ipAllowList: {sourceRange: [10.0.0.0/8, '::1']}", "ipAllowList: {sourceRange: [10.0.0.0/33]}", "ipAllowList: {}",
    "ipAllowList: {sourceRange: '10.0.0.1, 10.0.0.2'}", "ipAllowList: {sourceRange: [10.0.0.1/255.0.0.0]}",
    "ipAllowList: {sourceRange: [localhost]}", "ipAllowList: {sourceRange: [10.0.0.1], ipStrategy: {}}",
    "ipAllowList: {sourceRange: [10.0.0.1], ipStrategy: {excludedIPs: [x]}}",
    "ipAllowList: {sourceRange: [10.0.0.1], ipStrategy: {depth: '1'}}", "rateLimit: {average: 1, burst: many}",
    "rateLimit: {average: 1, sourceCriterion: {}}",
    "rateLimit: {average: 1, sourceCriterion: {ipStrategy: {excludedIPs: ['10/8']}}}",
    "redirectRegex: {regex: '^(.*)$', replacement: a}", "redirectRegex: {regex: '(', replacement: a}",
    "redirectRegex: {regex: '(?=a)', replacement: a}", "redirectRegex: {regex: '^a', replacement: a, permanent: yes}",
    "redirectRegex: {regex: '^a', replacement: a, permanent: True}",
    "redirectRegex: {regex: '^a', replacement: a, permanent: T}",
    "redirectRegex: {regex: '^a', replacement: a, permanent: on}",
    "redirectRegex: {regex: '^a', replacement: a, permanent: 1}",
    "replacePathRegex: {regex: '[', replacement: a}", "stripPrefixRegex: {regex: ['^/a', '(']}",
    "stripPrefixRegex: {regex: ['^/a']}",
    "headers: {}", "headers: {customRequestHeaders: {}}", "headers: {customRequestHeaders: {A: b}}",
    "headers: {customRequestHeaders: {A: }}",
    "headers: {customRequestHeaders: {A: ''}}", "headers: {frameDeny: 'true'}", "headers: {frameDeny: deny}",
    "headers: {stsSeconds: 1e3}",
    "headers: {stsSeconds: 1_000}", "headers: {stsSeconds: 1y}",
    "headers: {accessControlAllowOriginListRegex: ['*']}",
    "errors: {status: ['500-599', '404'], service: s, query: /}", "errors: {status: [5xx], service: s, query: /}",
    "errors: {status: [404], service: s, query: /}", "buffering: {maxRequestBodyBytes: 1k}",
    "buffering: {maxRequestBodyBytes: -1}",
    "inFlightReq: {amount: 10, sourceCriterion: {requestHost: maybe}}", "grpcWeb: {}", "contentType: {}",
    "passTLSClientCert: {}",
    "forwardAuth: {address: 'http://a', tls: {}}", "forwardAuth: {address: 'http://a', trustForwardHeader: no}",
    "forwardAuth: {address: 'http://a', maxResponseBodySize: 1MB}",
    "forwardAuth: {address: 'http://a', authResponseHeadersRegex: '(?!a)'}",
    "forwardAuth: {address: 'http://a', authResponseHeadersRegex: '^X-'}", "compres: {}",
]  # fmt: skip
_WHOLE = [
    "http:\n", "http: {}\n", "http:\n  routers:\n", "http:\n  routers: {}\n" + _SERVICES,
    "http:\n  routers:\n" + _SERVICES,
    "http:\n  middlewares: {}\n" + _SERVICES, "http:\n" + _SERVICES, "tls: {}\n", "tls: {options: {default: {}}}\n",
    "tls: {options: {}}\n",
    "http: {}\ntls:\n", "http:\n  serversTransports: {}\n" + _SERVICES,
    "http:\n  serversTransports: {t: {}}\n" + _SERVICES,
    "http:\n  serversTransports: {t: {forwardingTimeouts: {}}}\n" + _SERVICES, "tcp:\n  routers: {}\n", "udp: {}\n",
    "udp:\n",
    "http: {services: {s: {loadBalancer: {}}}}\n", "http: {services: {s: {loadBalancer: {servers: []}}}}\n",
    "http: {services: {s: {loadBalancer: {servers: }}}}\n",
    "http: {services: {s: {loadBalancer: {servers: [{}]}}}}\n",
    "http: {services: {s: {loadBalancer: {servers: [{url: 'http://a', weight: half}]}}}}\n",
    "http: {services: {s: {loadBalancer: {servers: [{url: 'http://a'}], sticky: {}}}}}\n",
    "http: {services: {s: {loadBalancer: {servers: [{url: 'http://a'}], healthCheck: {}}}}}\n",
    "http: {services: {s: {loadBalancer: {servers: [{url: 'http://a'}], healthCheck: {path: /, interval: 5sec}}}}}\n",
    "http: {services: {s: {loadBalancer: {servers: [{}], healthCheck: {path: /, followRedirects: nope}}}}}\n",
    "http: {services: {s: {loadBalancer: {servers: [{url: 'http://a'}], passHostHeader: 'false'}}}}\n",
]  # fmt: skip


def dynamics() -> Iterator[str]:
    """Dynamic files."""
    for middleware in _MIDDLEWARES:
        yield _ROUTED % middleware
    yield from _WHOLE


_POINT = "entryPoints: {web: {address: '127.0.0.1:P1'%s}}\n"
_POINTS = [
    ", asDefault: true", ", asDefault: yes", ", asDefault: ''", ", asDefault: ", ", transport: {}", ", transport: ",
    ", transport: {lifeCycle: {graceTimeOut: 5}}", ", transport: {lifeCycle: {graceTimeOut: 5 s}}",
    ", transport: {lifeCycle: {}}",
    ", transport: {respondingTimeouts: {readTimeout: 1d}}", ", transport: {keepAliveMaxRequests: lots}",
    ", proxyProtocol: {}", ", proxyProtocol: {insecure: true}", ", proxyProtocol: {trustedIPs: [10.0.0.0/8]}",
    ", proxyProtocol: {trustedIPs: [10.0.0.0/33]}", ", proxyProtocol: {insecure: true, trustedIPs: [x]}",
    ", forwardedHeaders: {trustedIPs: [localhost]}", ", forwardedHeaders: {trustedIPs: ['::1', '10.0.0.1/8']}",
    ", forwardedHeaders: {insecure: true, trustedIPs: [10.0.0.0/255.0.0.0]}", ", http: {tls: {}}", ", http: {}",
    ", http3: {}",
    ", http: {maxHeaderBytes: 1e3}", ", http: {maxHeaderBytes: 1k}", ", http2: {maxConcurrentStreams: 2.5}",
]  # fmt: skip
_STATIC = [
    "entryPoints: {web: {address: 'P1'}}\n", "entryPoints: {web: {address: ':99999'}}\n",
    "entryPoints: {web: {address: ':P1/sctp'}}\n",
    "entryPoints: {web: {address: ':P1/udp'}}\n", "entryPoints: {web: {address: '::1:P1'}}\n", "entryPoints: {}\n",
    "entryPoints: {a: {address: ':P1'}, b: {address: ':P1'}}\n",
    "entryPoints: {a: {address: ':P1'}, b: {address: '127.0.0.1:P1'}}\n",
    "entryPoints: {a: {address: ':P1'}, b: {address: ':P2'}}\n",
    "entryPoints: {a: {address: ':P1'}, b: {address: ':P1/udp'}}\n",
    "entryPoints: {a: {address: ':P1', http3: {}}, b: {address: ':P1/udp'}}\n",
    "entryPoints: {a: {address: '127.0.0.1:P1'}, b: {address: '127.0.0.2:P1'}}\n",
    "entryPoints: {a: {address: ':P1', reusePort: true}, b: {address: ':P1', reusePort: true}}\n",
    "entryPoints: {a: {address: ':P1', reusePort: true}, b: {address: ':P1'}}\n",
    "entryPoints: {a: {address: 'localhost:P1'}, b: {address: '127.0.0.1:P1'}}\n",
    *(section + _POINT % "" for section in (
        "pilot: {token: a}\n", "pilot:\n", "providers: {marathon: {}}\n", "tracing: {jaeger: {}}\n", "tracing: {}\n",
        "experimental: {http3: true}\n",
        "providers: {}\n", "providers:\n", "providers: {file: {}}\n", "providers: {docker: {}}\n",
        "providers: {docker: {swarmMode: true}}\n",
        "providers: {providersThrottleDuration: 2}\n", "providers: {providersThrottleDuration: 2 sec}\n",
        "log: {}\n", "log: {noColor: sure}\n",
        "ping: {entryPoint: web}\n", "ping: {terminatingStatusCode: a}\n", "accessLog: {bufferingSize: 1.5}\n",
        "accessLog: {filters: {}}\n",
        "metrics: {prometheus: {entryPoint: web, buckets: [0.1, 1]}}\n", "metrics: {}\n",
        "metrics: {prometheus: {buckets: [a]}}\n",
        "api: {dashboard: 'yes'}\n",
        "serversTransport: {maxIdleConnsPerHost: '7'}\n", "serversTransport: {}\n",
        "global: {checkNewVersion: disabled}\n", "docker: {}\n",
        "tracing: {sampleRate: 0.5}\n", "tracing: {sampleRate: half}\n",
    )),
]  # fmt: skip


def statics(first: int, second: int) -> Iterator[str]:
    """Static files whose ports are these two."""
    for text in (*(_POINT % more for more in _POINTS), *_STATIC):
        yield text.replace("P1", str(first)).replace("P2", str(second))

# One image for every command of Trunkline: node, balancer, deploys, load tests, monitoring. See docs/image.md.
#
# Both stages begin at the same Python, so that what is installed in the first one runs in the second one.
# `--build-arg PYTHON=...` names another base, or this one by its digest.

ARG PYTHON=docker.io/library/python:3.13-slim-bookworm
ARG BUILDER=${PYTHON}


FROM ${BUILDER} AS build

# The tool that lists what is in the image; it stays in this stage.
ARG CYCLONEDX="cyclonedx-bom>=7,<8"
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/cyclonedx \
 && python3 -m pip --python /opt/cyclonedx/bin/python install --only-binary=:all: "${CYCLONEDX}"

# Dependencies have a step of their own, which is done again only when they change.
WORKDIR /src
ARG EXTRAS=reload,docker,load,monitor
COPY pyproject.toml README.md LICENSE ./
COPY src/trunkline/version.py src/trunkline/version.py
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/trunkline \
 && python3 -m pip --python /opt/trunkline/bin/python install --only-binary=:all: ".${EXTRAS:+[${EXTRAS}]}" \
 && mkdir /opt/trunkline/share \
 && /opt/cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
        --output-reproducible --spec-version 1.6 --output-file /opt/trunkline/share/sbom.cdx.json \
        /opt/trunkline/bin/python

COPY src src
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/trunkline/bin/python install --no-deps --force-reinstall .


FROM ${PYTHON}

# Slim bases come without the compiled modules of Python's library, and nothing can be written later: without them, every
# start and every health check would compile again what it imports.
# The user has a number and no name: slim bases have no useradd, and Kubernetes can verify a number (runAsNonRoot).
RUN python3 -m compileall -q -x '/(site-packages|test|idlelib|tkinter|turtledemo|ensurepip|lib2to3)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && mkdir -p /app /var/lib/trunkline && chown 10001:10001 /app /var/lib/trunkline
COPY --from=build /opt/trunkline /opt/trunkline

# A container listens on all of its interfaces; which of its ports others reach is up to the engine that runs it.
ENV PATH=/opt/trunkline/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TRUNKLINE_BALANCER_HOST=0.0.0.0 \
    TRUNKLINE_UP_DATA_DIR=/var/lib/trunkline/up \
    XDG_STATE_HOME=/var/lib

WORKDIR /app
USER 10001:10001
EXPOSE 3001 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["trunkline", "health"]
ENTRYPOINT ["trunkline"]
CMD ["serve"]

ARG PYTHON
ARG VERSION=0.1.0
ARG REVISION=""
ARG CREATED=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="Trunkline" \
      org.opencontainers.image.description="Production WebSockets for Python" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="${PYTHON}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

# One image for all of Trunkline's commands: node, balancer, deploy tool, load tester, monitoring. docs/image.md

ARG PYTHON=python:3.13-slim-bookworm
ARG BUILDER=${PYTHON}

FROM ${BUILDER} AS build
WORKDIR /src
RUN python3 -m venv --without-pip /opt/trunkline
COPY . .
ARG EXTRAS=reload,docker,load,monitor
RUN python3 -m pip --python /opt/trunkline/bin/python install --no-cache-dir --only-binary=:all: ".[${EXTRAS}]"

FROM ${PYTHON}
COPY --from=build /opt/trunkline /opt/trunkline
ENV PATH=/opt/trunkline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["trunkline"]
CMD ["serve"]

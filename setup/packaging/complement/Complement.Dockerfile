# The homeserver as Complement wants it, https://github.com/matrix-org/complement. From the repository's root:
#
#   docker build -f setup/packaging/complement/Complement.Dockerfile -t complement-dendrite-futures .
#
# and then in Complement's folder:
#
#   COMPLEMENT_BASE_IMAGE=complement-dendrite-futures go test -v ./tests/...
#
# With --build-arg DATABASE=postgres the server runs on PostgreSQL, which starts in the same container.

FROM docker.io/library/golang:1.26-bookworm AS build
WORKDIR /src
COPY . .
RUN make build

FROM docker.io/library/debian:bookworm-slim
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates postgresql && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /dendrite
COPY --from=build /src/bin/ /dendrite/
COPY setup/packaging/complement/start.sh /dendrite/start.sh
ARG DATABASE=sqlite
ENV DATABASE=${DATABASE}
ENV SERVER_NAME=localhost
EXPOSE 8008 8448
HEALTHCHECK --interval=5s --timeout=15s --start-period=1m CMD ["/dendrite/dendrite", "-healthcheck"]
CMD ["/dendrite/start.sh"]

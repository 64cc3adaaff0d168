# Understudy's image for people with Docker: `docker build -t understudy:0.1.0 .`
# `cargo xtask image` writes the same without Docker.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked -p understudy
# The program with the libraries that it needs, the certificates of authorities, and a user who is not root.
# The program may be given the right to bind ports below 1024, for host ports.
RUN mkdir -p /image/etc/ssl/certs /image/tmp \
 && chmod 1777 /image/tmp \
 && cp target/release/understudy /image/understudy \
 && ldd /image/understudy | grep -o '/[^ ]*' | xargs -I LIBRARY cp --parents --dereference LIBRARY /image \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && printf 'root:x:0:0:::\nnobody:x:65532:65532::/:\n' >/image/etc/passwd \
 && printf 'root:x:0:\nnobody:x:65532:\n' >/image/etc/group \
 && apt-get update && apt-get install -y --no-install-recommends libcap2-bin \
 && setcap cap_net_bind_service=p /image/understudy

FROM scratch
COPY --from=build /image /
USER 65532:65532
ENTRYPOINT ["/understudy"]

# Both architectures into a registry: REGISTRY=registry.example.com VERSION=0.1.0 docker buildx bake -f compose/docker-bake.hcl --push
variable "REGISTRY" { default = "registry.example.com" }
variable "VERSION" { default = "0.1.0" }

group "default" { targets = ["vlinders"] }

target "vlinders" {
  context    = "."
  dockerfile = "compose/Dockerfile"
  platforms  = ["linux/amd64", "linux/arm64"]
  tags       = ["${REGISTRY}/vlinders:${VERSION}"]
  attest     = ["type=provenance,mode=max", "type=sbom"]
}

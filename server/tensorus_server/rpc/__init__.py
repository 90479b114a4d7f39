"""The gRPC face of the engine. Nothing below knows gRPC or protobuf."""

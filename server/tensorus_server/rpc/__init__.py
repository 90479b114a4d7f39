"""The gRPC interface of the engine. No layer below it knows gRPC or protobuf."""

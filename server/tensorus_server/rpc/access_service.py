"""The gRPC service `tensorus.v1.AccessService`: tokens, grants, quotas and owners. `rights.py` says who may make its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from tensorus_protos.v1 import access_pb2 as pb
from tensorus_server.access.rights import Role
from tensorus_server.rpc.interceptors import guard_unary

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from tensorus_server.access.rights import Grant
    from tensorus_server.rpc.access_calls import AccessCalls
    from tensorus_server.rpc.calls import Call, Gate

__all__ = ["ACCESS_SERVICE_NAME", "access_handler"]

ACCESS_SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["AccessService"].full_name


def access_handler(calls: AccessCalls, gate: Gate) -> grpc.GenericRpcHandler:
    """Return the handler that a gRPC server dispatches the service's calls to."""
    # `Any`: each takes and returns messages of its own.
    methods: dict[str, tuple[Any, Any]] = {
        "ListTokens": (calls.list_tokens, pb.ListTokensRequest),
        "RevokeToken": (calls.revoke_token, pb.RevokeTokenRequest),
        "AddGrant": (calls.add_grant, pb.AddGrantRequest),
        "RemoveGrant": (calls.remove_grant, pb.RemoveGrantRequest),
        "SetQuota": (calls.set_quota, pb.SetQuotaRequest),
        "ListQuotas": (calls.list_quotas, pb.ListQuotasRequest),
        "SetOwner": (calls.set_owner, pb.SetOwnerRequest),
    }
    handlers: dict[str, Any] = {
        name: grpc.stream_unary_rpc_method_handler(guard_unary(name, _plain(method), request_type, gate))
        for name, (method, request_type) in methods.items()
    }

    def create_token(request: pb.CreateTokenRequest, call: Call) -> pb.CreateTokenResponse:
        answer = calls.create_token(request)
        call.details = {"token_id": answer.token.id}
        return answer

    def list_grants(request: pb.ListGrantsRequest, call: Call) -> pb.ListGrantsResponse:
        return calls.list_grants(request, lambda grant: _may_see(call, grant))

    creating = guard_unary("CreateToken", create_token, pb.CreateTokenRequest, gate)
    handlers["CreateToken"] = grpc.stream_unary_rpc_method_handler(creating)
    listing = guard_unary("ListGrants", list_grants, pb.ListGrantsRequest, gate)
    handlers["ListGrants"] = grpc.stream_unary_rpc_method_handler(listing)
    return grpc.method_handlers_generic_handler(ACCESS_SERVICE_NAME, handlers)


def _plain(method: Callable[[Any], Message]) -> Callable[[Any, Call], Message]:
    return lambda request, _: method(request)


def _may_see(call: Call, grant: Grant) -> bool:
    """Return whether the caller has or administers a grant."""
    caller = call.caller
    return grant.principal in {caller.principal, *caller.groups} or call.may(Role.ADMIN, grant.scope.pattern)

"""Calls `test.Echo/Unary` as a member of the mesh: ADDRESS NAME ROOT CERT KEY TEXT. Prints the answer, or the status."""
import sys

import grpc

address, name, root, cert, key, text = sys.argv[1:]


def read(path):
    with open(path, "rb") as file:
        return file.read()


credentials = grpc.ssl_channel_credentials(read(root), read(key), read(cert))
options = [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)]
message = b"\n" + bytes([len(text)]) + text.encode()
with grpc.secure_channel(address, credentials, options) as channel:
    try:
        print(channel.unary_unary("/test.Echo/Unary")(message, timeout=20)[2:].decode())
    except grpc.RpcError as error:
        print(error.code().name, error.details())

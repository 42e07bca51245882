# SPDX-License-Identifier: MIT
"""A stock KDCOM target in plain Python, blocking code in a thread: sections 1.4 to 1.9 of the KD reference step by step, and as much of a kernel as
tests/conformance talks to. It shows that the suite asks for nothing that the reference does not say, and, with one of FAULTS switched on,
that each case can fail.
"""
import os
import socket
import struct
import threading

ACK, RESEND, RESET = 4, 5, 6
MANIPULATE, DEBUG_IO, STATE_CHANGE = 2, 3, 7
INITIAL, SYNC = 0x80800000, 0x800
RECEIVED, TIMED_OUT, AGAIN = 0, 1, 2
KERNEL = 0xFFFFF80000200000
INT3 = KERNEL + 0x1230
IMAGE = b"MZ" + bytes(i * 5 & 0xFF for i in range(2, 8192))

# What can be made wrong, one thing at a time, and the cases that must notice it.
FAULTS = {
    "no sync": ["first_packet_has_the_sync_id"],
    "ack with sync counts": ["first_packet_has_the_sync_id"],
    "no reset answer": ["reset_is_answered_and_the_state_change_comes_again", "reset_while_running", "resets_and_a_break_in_while_running",
                        "another_connection", "another_connection_in_the_middle_of_a_reply", "reset_in_the_middle_of_a_request",
                        "reset_in_the_middle_of_a_header"],
    "two reset answers": ["two_resets_in_a_row", "many_resets_in_a_row"],
    "reset for ever": ["bounced_resets_come_to_an_end"],
    "no state change after reset": ["reset_while_the_state_change_is_in_flight", "a_resend_brings_the_state_change_again"],
    "expected id survives reset": ["ids_start_anew_after_a_reset"],
    "next id survives reset": ["reset_while_a_reply_is_in_flight"],
    "chatters": ["a_waiting_target_is_silent"],
    "stray acks count": ["an_ack_that_nobody_waits_for_is_ignored"],
    "answers twice": ["a_doubled_request_is_executed_once", "request_ack_reply"],
    "reply before ack": ["request_ack_reply", "one_byte_at_a_time"],
    "ids stand still": ["only_the_lowest_bit_of_ids_toggles"],
    "sync at each stop": ["ids_go_on_over_a_continue"],
    "never repeats": ["an_unacknowledged_reply_is_repeated", "an_unacknowledged_state_change_is_repeated", "an_ack_that_comes_too_early_is_lost"],
    "any ack counts": ["an_ack_with_a_wrong_id_is_none", "a_doubled_ack_counts_once"],
    "early ack counts": ["an_ack_that_comes_too_early_is_lost"],
    "a request is no ack": ["a_request_stands_for_the_lost_ack_of_the_state_change", "the_next_request_stands_for_the_lost_ack_of_a_reply"],
    "any packet is an ack": ["the_same_request_again_is_no_ack_of_its_reply"],
    "drops what follows": ["several_frames_in_one_write", "a_resend_with_a_request_behind_it"],
    "any id is executed": ["an_old_request_is_acknowledged_and_dropped", "requests_in_the_wrong_order",
                           "ids_that_do_not_exist"],
    "sync in requests is taken": ["a_request_with_the_sync_bit_is_out_of_step"],
    "a running target hears requests": ["a_request_to_a_running_target_is_not_executed"],
    "remembers a continue": ["a_doubled_continue_continues_once"],
    "no checksum test": ["a_wrong_checksum", "a_damaged_body"],
    "no trailer test": ["a_wrong_trailing_byte"],
    "short bodies are taken": ["a_body_shorter_than_its_message_header"],
    "long bodies are waited for": ["a_body_longer_than_the_largest"],
    "largest is 3999": ["the_largest_body"],
    "three leader bytes will do": ["a_damaged_leader"],
    "a byte time-out ends it": ["a_header_cut_off", "a_damaged_length"],
    "a damaged body ends it": ["a_byte_too_many_and_one_too_few", "a_body_cut_off_by_the_next_frame", "a_damaged_body"],
    "a damaged length ends it": ["a_leader_too_long", "a_body_longer_than_the_largest", "a_body_shorter_than_its_message_header"],
    "silent about bodies": ["a_body_cut_off"],
    "frames in one piece": ["one_byte_at_a_time"],
    "no break-in": ["a_break_in_stops_a_running_target", "a_break_in_packet_of_four_bytes", "two_break_ins", "a_break_in_behind_noise"],
    "another exception": ["a_break_in_stops_a_running_target"],
    "break-in inside packets": ["a_break_in_byte_inside_a_packet_is_data"],
    "b ends the session": ["a_break_in_in_mid_packet", "a_break_in_between_packets_while_stopped", "a_break_in_while_it_waits"],
    "resend is ignored": ["a_resend_to_a_waiting_target_refreshes_the_state", "many_resends"],
    "resend is an ack": ["a_resend_brings_the_reply_again", "a_resend_brings_the_state_change_again"],
    "resend while running stops": ["a_resend_while_running_is_nothing"],
    "unknown control is a reset": ["unknown_control_packets_are_ignored"],
    "control packets have bodies": ["a_control_packet_with_a_length"],
    "other types toggle": ["a_packet_of_another_type_is_acknowledged_and_dropped"],
    "unknown APIs are not answered": ["an_unknown_api_has_a_status"],
    "unknown APIs succeed": ["an_unknown_api_has_a_status"],
    "replies may be longer": ["the_largest_reply"],
    "noise ends it": ["noise_between_frames", "much_noise"],
    "bad ids": ["only_the_lowest_bit_of_ids_toggles"],
    "bad checksums": ["request_ack_reply"],
    "bad trailers": ["request_ack_reply"],
    "controls with length": ["request_ack_reply"],
}


class Gone(Exception):
    """The debugger's stream has ended, or the target was told to stop."""


class StockTarget:
    """with StockTarget(folder, faults) as target: ... Listens on target.where. One debugger at a time; what a vanished one left unread is lost."""

    BYTE_S, POLL_S = 0.03, 0.005

    def __init__(self, folder, faults=(), tcp=False):
        self.faults = set(faults)
        assert self.faults <= set(FAULTS), self.faults
        if tcp:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.where = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        else:
            path = os.path.join(folder, "stock.sock")
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.listener.bind(path)
            self.listener.listen(4)
            self.where = f"unix:{path}"
        self.listener.settimeout(self.BYTE_S)
        self.sock = None
        self.buf = bytearray()
        self.is_ended = False
        self.next_id, self.expected = INITIAL | (0 if self.has("no sync") else SYNC), INITIAL
        self.is_break_pending = False
        self.early_acks = set()
        self.thread = threading.Thread(target=self.main, daemon=True)

    def has(self, fault):
        return fault in self.faults

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_exc):
        self.is_ended = True
        self.thread.join()
        for sock in (self.sock, self.listener):
            if sock is not None:
                sock.close()

    # -- the port --

    def fill(self, seconds):
        """More bytes from whoever is connected. False: none in time."""
        if self.is_ended:
            raise Gone
        try:
            if self.sock is None:
                self.listener.settimeout(seconds)
                self.sock = self.listener.accept()[0]
                self.buf.clear()
            self.sock.settimeout(seconds)
            data = self.sock.recv(65536)
        except (socket.timeout, TimeoutError):
            return False
        except OSError:
            data = b""
        if not data:
            if self.sock is not None:
                self.sock.close()
            self.sock = None
            return False
        if not self.has("frames in one piece") or len(data) > 15:
            self.buf += data
        return bool(self.buf)

    def byte(self, seconds=None):
        if not self.buf and not self.fill(self.BYTE_S if seconds is None else seconds):
            return None
        value = self.buf[0]
        del self.buf[0]
        return value

    def bytes(self, count):
        """count bytes, or None after a silence between two of them."""
        got = bytearray()
        while len(got) < count:
            value = self.byte()
            if value is None:
                if self.has("a byte time-out ends it"):
                    self.hang()
                return None
            got.append(value)
        return bytes(got)

    def put(self, data):
        try:
            if self.sock is not None:
                self.sock.sendall(data)
        except OSError:
            pass  # as on a wire that nobody holds

    def hang(self):
        while True:
            self.fill(self.BYTE_S)
            self.buf.clear()

    # -- frames --

    def control(self, packet_type, packet_id=0):
        self.put(b"iiii" + struct.pack("<HHII", packet_type, 7 if self.has("controls with length") else 0, packet_id, 0))

    def leader(self):
        """The leader byte; None after a silence."""
        count, last = 0, None
        needed = 3 if self.has("three leader bytes will do") else 4
        while True:
            value = self.byte()
            if value is None:
                return None
            if value == 0x62:
                self.is_break_pending = True
                if self.has("b ends the session"):
                    self.hang()
            if value not in b"0i":
                if self.has("noise ends it") and value != 0x62:
                    self.hang()
                count, last = 0, None
                continue
            count, last = (count + 1 if value == last else 1), value
            if count == needed:
                return value

    def receive(self, want):
        """(outcome, body) as KdReceivePacket, in the order of section 1.7. want ACK: of the packet in flight."""
        while True:
            leader = self.leader()
            if leader is None:
                if want != ACK and self.has("chatters"):
                    return AGAIN, None
                return TIMED_OUT, None
            head = self.bytes(2)
            if head is None:
                return TIMED_OUT, None
            packet_type = struct.unpack("<H", head)[0]
            if leader == ord("i") and packet_type == RESEND:
                if self.has("drops what follows"):
                    self.buf.clear()
                if self.has("resend is ignored"):
                    continue
                if self.has("resend is an ack") and want == ACK:
                    self.toggle()
                    return RECEIVED, None
                return AGAIN, None
            rest = self.bytes(10)
            if rest is None:
                return TIMED_OUT, None
            count, packet_id, checksum = struct.unpack("<HII", rest)
            if leader == ord("i"):
                outcome = self.on_control(want, packet_type, count, packet_id)
            elif want == ACK:
                outcome = self.on_data_for_ack(packet_id, count)
            else:
                outcome = self.on_data(want, packet_type, count, packet_id, checksum)
            if outcome is not None:
                return outcome

    def toggle(self):
        if not self.has("ids stand still"):
            self.next_id = (self.next_id ^ 1) & ~SYNC

    def on_control(self, want, packet_type, count, packet_id):
        if self.has("unknown control is a reset") and packet_type not in (ACK, RESEND):
            packet_type = RESET
        if self.has("control packets have bodies"):
            self.bytes(count)
        if packet_type == ACK:
            plain = packet_id & ~SYNC if self.has("ack with sync counts") else packet_id
            if want == ACK and (plain == self.next_id & ~SYNC or self.has("any ack counts")):
                self.toggle()
                if self.has("drops what follows"):
                    self.buf.clear()
                return RECEIVED, None
            self.early_acks.add(packet_id)
            if self.has("stray acks count") and want != ACK:
                self.toggle()
        elif packet_type == RESET:
            if self.has("no reset answer"):
                return None
            if not self.has("next id survives reset"):
                self.next_id = INITIAL
            if not self.has("expected id survives reset"):
                self.expected = INITIAL
            self.control(RESET)
            if self.has("two reset answers"):
                self.control(RESET)
            if self.has("reset for ever"):
                self.is_bouncing = True
            if self.has("no state change after reset") and want != ACK:
                return None
            return AGAIN, None
        return None

    def on_data_for_ack(self, packet_id, count):
        """Rule 5, with the id tested first."""
        if self.has("a request is no ack"):
            self.bytes(count + 1 if count <= 4000 else 0)
            return None
        if packet_id != self.expected and not self.has("any packet is an ack"):
            self.bytes(count + 1 if count <= 4000 else 0)
            self.control(ACK, packet_id)
            return None
        self.control(RESEND)
        self.toggle()
        return RECEIVED, None

    def on_data(self, want, packet_type, count, packet_id, checksum):
        least = 0 if self.has("short bodies are taken") else 56
        most = 3999 if self.has("largest is 3999") else 0xFFFF if self.has("long bodies are waited for") else 4000
        if not least <= count <= most:
            if self.has("a damaged length ends it"):
                self.hang()
            self.control(RESEND)
            return None
        body, trailer = self.bytes(count), None
        if body is not None:
            trailer = self.bytes(1)
        if body is None or trailer is None:
            if not self.has("silent about bodies"):
                self.control(RESEND)
            return None
        if self.has("break-in inside packets") and b"b" in body:
            self.is_break_pending = True
        if (trailer != b"\xaa" and not self.has("no trailer test")) or (sum(body) & 0xFFFFFFFF != checksum and not self.has("no checksum test")):
            if self.has("a damaged body ends it"):
                self.hang()
            self.control(RESEND)
            return None
        if not self.has("reply before ack"):
            self.control(ACK, packet_id)
        is_right = packet_id == self.expected or self.has("any id is executed")
        is_right |= self.has("sync in requests is taken") and packet_id & ~SYNC == self.expected
        if is_right and packet_type != want and self.has("other types toggle"):
            self.expected ^= 1
        if not is_right or packet_type != want:
            return None
        self.expected ^= 1
        self.ack_due = packet_id
        return RECEIVED, body.ljust(56, b"\0")

    def send(self, packet_type, body, retries=None):
        """As KdSendPacket; retries: of a packet that may be dropped."""
        trailer = b"\xab" if self.has("bad trailers") else b"\xaa"
        checksum = sum(body) + self.has("bad checksums") & 0xFFFFFFFF
        is_quiet = False
        while True:
            packet_id = self.next_id + 2 if self.has("bad ids") else self.next_id
            if not is_quiet:
                self.put(b"0000" + struct.pack("<HHII", packet_type, len(body), packet_id, checksum) + body + trailer)
            if self.has("reply before ack") and packet_type == MANIPULATE:
                self.control(ACK, self.ack_due)
            if self.has("early ack counts") and self.next_id in self.early_acks:
                self.early_acks.clear()
                self.toggle()
                return True
            outcome, _ = self.receive(ACK)
            if outcome == RECEIVED:
                return True
            is_quiet = outcome == TIMED_OUT and self.has("never repeats")
            if outcome == TIMED_OUT and retries is not None and self.sock is not None:
                retries -= 1
                if retries == 0:
                    self.next_id, self.expected = INITIAL | SYNC, INITIAL
                    return False

    # -- the kernel --

    is_bouncing = False
    is_continue_due = False
    ack_due = INITIAL

    def main(self):
        try:
            text = b"a stock target in Python\n"
            self.send(DEBUG_IO, struct.pack("<IHHII", 0x3230, 6, 0, len(text), 0) + text, 20)
            while True:
                self.stop()
                self.run()
        except (Gone, struct.error):
            pass  # struct.error: it took for a request what was none, as it was made to. The debugger meets silence

    def state_change(self):
        code = 0x80000004 if self.has("another exception") else 0x80000003
        body = struct.pack("<IHHIIQQ", 0x3030, 6, 0, 1, 0, 0xFFFFF800003C2A40, self.pc)
        body += struct.pack("<IIQQII", code, 0, 0, self.pc, 1, 0) + bytes(120) + struct.pack("<II", 1, 0)
        stream = b"\xcc\xc3" if self.pc == INT3 else b"\x90\x90"
        body = body.ljust(0xC0, b"\0") + struct.pack("<QQIHH", 0xFFFF0FF0, 0x400, 0x246, 16, 3) + stream.ljust(16, b"\x90")
        return body.ljust(240, b"\0")

    pc = INT3

    def stop(self):
        self.pc = INT3
        is_due = True
        while True:
            if is_due:
                if self.has("sync at each stop"):
                    self.next_id = INITIAL | SYNC
                self.send(STATE_CHANGE, self.state_change())
            if self.is_continue_due:
                self.is_continue_due = False
                return
            outcome, body = self.receive(MANIPULATE)
            is_due = outcome == AGAIN
            if self.is_bouncing:
                self.control(RESET)
            if outcome != RECEIVED:
                continue
            api = struct.unpack_from("<I", body)[0]
            if api in (0x3136, 0x313C):
                if self.has("reply before ack"):
                    self.control(ACK, self.ack_due)
                if self.pc != INT3:
                    return
                is_due = True  # it stands at the int3 still
                continue
            reply = self.execute(api, body)
            if reply is not None:
                self.send(MANIPULATE, reply)
            if self.has("answers twice"):
                self.send(MANIPULATE, reply)

    def execute(self, api, body):
        union, status, data = bytearray(body[16:56]), 0, b""
        if api == 0x3146:
            union = struct.pack("<HHBBHHBBBBHQQQ", 15, 3790, 6, 2, 7, 0x8664, 12, 3, 0x31, 0, 0, KERNEL, KERNEL + 0x1000, KERNEL + 0x2000)
        elif api == 0x3132:
            data = bytes(0xF8) + struct.pack("<Q", self.pc) + bytes(0x4D0 - 0x100)
        elif api == 0x3133:
            self.pc = struct.unpack_from("<Q", body, 56 + 0xF8)[0]
        elif api == 0x3130:
            address, count = struct.unpack_from("<QI", union)
            count = min(count, 4000 if self.has("replies may be longer") else 3944)
            data = IMAGE[address - KERNEL:][:count] if address >= KERNEL else b""
            struct.pack_into("<I", union, 12, len(data))
            status = 0 if data else 0xC0000001
        elif self.has("unknown APIs are not answered"):
            return None
        elif not self.has("unknown APIs succeed"):
            status = 0xC0000001
        return body[:8] + struct.pack("<II", status, 0) + bytes(union) + data

    def run(self):
        """Runs; the clock polls the port, one byte a tick (2.6)."""
        if self.has("a running target hears requests"):
            while True:
                outcome, body = self.receive(MANIPULATE)
                if outcome == RECEIVED and struct.unpack_from("<I", body)[0] == 0x3146:
                    self.send(MANIPULATE, self.execute(struct.unpack_from("<I", body)[0], body))
                if self.is_break_pending:
                    break
        seen = bytearray()
        while not self.is_break_pending:
            value = self.byte(self.POLL_S)
            if value is None:
                continue
            seen.append(value)
            self.is_continue_due |= self.has("remembers a continue") and seen.endswith(b"0000\x02")
            if self.has("resend while running stops") and seen.endswith(b"iiii\x05"):
                break
            if value == 0x62 and not self.has("no break-in"):
                break
        self.is_break_pending = False

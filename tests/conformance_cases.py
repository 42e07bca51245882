# SPDX-License-Identifier: MIT
"""The conversations of tests/conformance. Each case proves one rule of the KD reference; its text says which. A case is given a Talk
(conformance_talk.py) in the state it names: STOPPED (in an exception, ids in step), RUNNING, or FRESH (just connected, not a word said).

A difference is an error, except in cases marked REMARK: there the reference knows targets that behave otherwise, and the suite only says so.
"""
import struct
import time

from conformance_talk import (FIRST, SECOND, Unable, Wrong)
from kdclient import ACK, BREAKPOINT, DEBUG_IO, INITIAL_ID, MANIPULATE, RESEND, RESET, STATE_CHANGE, SYNC, Symbols, control_frame, decode_event, frame

FRESH, STOPPED, RUNNING = "fresh", "stopped", "running"
ERROR, REMARK = "error", "remark"
CASES = []
VERSION = struct.pack("<I", 0x3146) + bytes(52)
R = control_frame(RESET)


class Case:
    def __init__(self, function, rule, start, kind):
        self.name = function.__name__
        self.function, self.rule, self.start, self.kind = function, rule, start, kind
        self.text = " ".join(function.__doc__.split())


def case(rule, start=STOPPED, kind=ERROR):
    def register(function):
        CASES.append(Case(function, rule, start, kind))
        return function
    return register


# ---- Connect and resynchronise (1.4, 1.5, 1.11) ----------------------------------------------------------------------------------------

@case("1.4, 1.11", FRESH)
def first_packet_has_the_sync_id(t):
    """The first packet after a start has id 80800800; its ACK carries the id without the SYNC bit, and with the bit it is none."""
    first = t.raw()
    if first is None or first.kind != "data":
        raise Unable("it says nothing by itself")
    if first.id & ~SYNC == first.id:
        if t.is_new:
            raise Wrong(f"its first packet is {first}")
        raise Unable(f"its first packet is {first}: it has talked to somebody before")
    t.write(control_frame(ACK, first.id))
    t.again(first)
    t.acknowledge(first)
    event = decode_event(first.type, first.body)
    if first.type != STATE_CHANGE:
        following = t.frame()
        if following is not None and (following.kind != "data" or following.id != SECOND):
            raise Wrong(f"id {SECOND:#x} expected behind the SYNC packet, got {following}")
    elif isinstance(event, Symbols):
        t.write(t.request("Continue2", t.continue_union(event)))
        t.acknowledged()
    else:
        t.stop = event
        t.strict("GetVersion")


@case("1.5, 1.4")
def reset_is_answered_and_the_state_change_comes_again(t):
    """A RESET is answered by one RESET; then the state change comes again under id 80800000, whatever the ids were."""
    t.strict("GetVersion")
    t.write(R)
    t.control(RESET)
    t.resets()
    t.acknowledge(t.take_state_change(FIRST))
    t.works()


@case("1.4")
def ids_start_anew_after_a_reset(t):
    """After a RESET the target expects id 80800000: a request with 80800001 is acknowledged and dropped."""
    t.strict("GetVersion")
    if t.next_id == FIRST:
        t.strict("GetVersion")
    t.reset()
    t.acknowledge(t.take_state_change(FIRST))
    t.write(t.request("GetVersion", packet_id=SECOND))
    t.control(ACK, SECOND)
    reply = t.strict("GetContext")
    if reply.id != SECOND:
        raise Wrong(f"the reply has id {reply.id:#x}, {SECOND:#x} follows the state change")
    t.works()


def take_reset_answers(t, sent):
    """After so many RESETs: the state change, acknowledged, and every further frame until requests work again."""
    answers, is_told = 0, False
    t.resets()
    while not is_told or answers == 0:
        got = t.must(t.raw(), "a RESET and the state change")
        if got.is_control(RESET):
            answers += 1
        elif got.kind == "data" and got.type == STATE_CHANGE and got.id == FIRST:
            t.acknowledge(got)
            is_told = True
        else:
            raise Wrong(f"after {sent} RESETs: {got}")
    # Each RESET may bring an answer and a state change of its own: past them, until it is quiet.
    while (got := t.frame(t.quiet)) is not None:
        if not got.is_control(RESET):
            raise Wrong(f"after {sent} RESETs: {got}")
        answers += 1
        if answers > sent:
            raise Wrong(f"{sent} RESETs were sent, and it sends more than {sent}: answers are answered")
    if answers > 1:
        t.remark(f"{sent} RESETs in a row have {answers} answers")
    t.works()


@case("1.5")
def two_resets_in_a_row(t):
    """Two RESETs in a row have at most two answers, and the state change in between or behind has id 80800000."""
    t.write(R, R)
    take_reset_answers(t, 2)


@case("1.5")
def many_resets_in_a_row(t):
    """Twenty-five queued RESETs have at most as many answers; then the target listens to requests."""
    t.write(R * 25)
    take_reset_answers(t, 25)


@case("1.5")
def bounced_resets_come_to_an_end(t):
    """A debugger that answers the answer to its RESET, five times over, ends with a target that listens."""
    t.write(R)
    t.until(lambda f: f.is_control(RESET), "RESET")
    for _ in range(5):
        t.write(R)
        try:
            t.until(lambda f: f.is_control(RESET), "RESET", max(t.quiet, 0.5))
        except Wrong:
            t.remark("knows a bounced RESET and does not answer it")
            break
    t.resync()
    t.works()


@case("1.5")
def reset_while_the_state_change_is_in_flight(t):
    """A RESET instead of the ACK of the state change brings RESET and the state change again."""
    t.reset()
    t.take_state_change(FIRST)
    t.reset()
    t.acknowledge(t.take_state_change(FIRST))
    t.works()


@case("1.5")
def reset_while_a_reply_is_in_flight(t):
    """A RESET instead of the ACK of a reply: RESET, then a packet under id 80800000, the reply or the state change; a RESET later everything works."""
    t.write(t.request("GetContext"))
    t.acknowledged()
    t.reply("GetContext")
    t.reset()
    got = t.must(t.raw(), "the reply or the state change")
    if got.kind != "data" or got.id != FIRST or got.type not in (MANIPULATE, STATE_CHANGE):
        raise Wrong(f"the reply or the state change under id {FIRST:#x} expected, got {got}")
    t.acknowledge(got)
    if got.type == MANIPULATE:
        t.remark("after a RESET in mid-transfer the reply comes again, not the state change")
        t.reset()
        t.acknowledge(t.take_state_change(FIRST))
    t.works()


@case("1.5, 1.7")
def reset_in_the_middle_of_a_request(t):
    """A RESET behind half a request may be taken for the body's rest; repeated, it is heard."""
    packet = t.request("GetVersion")
    t.write(packet[:40])
    t.reset()
    t.resync()
    t.works()


@case("1.5, 1.7")
def reset_in_the_middle_of_a_header(t):
    """A RESET behind half a packet header may be taken for its rest; repeated, it is heard."""
    t.write(t.request("GetVersion")[:9])
    t.reset()
    t.resync()
    t.works()


@case("1.5", RUNNING)
def reset_while_running(t):
    """A running target need not hear a RESET. It goes on running, and a break-in stops it; then a RESET is answered."""
    t.write(R)
    if t.frame(t.quiet) is not None:
        t.remark("answers a RESET while it runs")
    t.resync()
    t.works()


@case("1.5, 1.6", RUNNING)
def resets_and_a_break_in_while_running(t):
    """Two RESETs and a break-in at once, as an impatient debugger sends them: the target stops, and ids agree after the next RESET."""
    t.write(R, R, b"b")
    t.until(lambda f: f.kind == "data" and f.type == STATE_CHANGE, "a state change")
    t.resync()
    t.works()


@case("1.10")
def another_connection(t):
    """The stream ends and a new one begins: a RESET there brings the state change, and requests work."""
    t.strict("GetVersion")
    t.connect()
    t.resync()
    t.works()


@case("1.10")
def another_connection_in_the_middle_of_a_reply(t):
    """The stream ends with a reply in flight and half a request said. The next connection resynchronises."""
    t.write(t.request("GetContext"))
    t.acknowledged()
    t.reply("GetContext")
    t.write(t.request("GetVersion")[:30])
    t.connect()
    t.resync()
    t.works()


@case("2.4")
def a_waiting_target_is_silent(t):
    """While it waits for a request it says nothing by itself: no state change, no RESEND, for twenty times the quiet time."""
    t.works()
    t.nothing("a target that waits has nothing to say", min(20 * t.quiet, 3.0))
    t.works()


# ---- Acknowledgements and ids (1.4, 1.5) -------------------------------------------------------------------------------------------------

@case("1.5, 1.7")
def request_ack_reply(t):
    """A request is acknowledged with its own id, then answered; control packets have neither length nor checksum."""
    t.strict("GetVersion")
    t.strict("GetContext")


@case("1.4")
def only_the_lowest_bit_of_ids_toggles(t):
    """Over eight requests the replies' ids alternate between 80800000 and 80800001."""
    seen = [t.strict("GetVersion").id for _ in range(8)]
    if set(seen) != {FIRST, SECOND} or any(a == b for a, b in zip(seen, seen[1:])):
        raise Wrong(f"ids of eight replies: {[hex(i) for i in seen]}")


@case("1.4", RUNNING)
def ids_go_on_over_a_continue(t):
    """Continue and a new stop change no ids but by toggling: no SYNC, no new start."""
    for _ in range(3):
        t.break_in()  # which takes only the expected id
        t.works()
        t.go()


@case("1.5")
def an_unacknowledged_reply_is_repeated(t):
    """Without an ACK the same frame comes again, under the same id, and again."""
    t.write(t.request("GetContext"))
    t.acknowledged()
    reply = t.reply("GetContext")
    t.again(reply)
    t.again(reply)
    t.acknowledge(reply)
    t.works()


@case("1.5")
def an_unacknowledged_state_change_is_repeated(t):
    """Without an ACK the state change comes again, under the same id."""
    t.reset()
    stop = t.take_state_change(FIRST)
    t.again(stop)
    t.acknowledge(stop)
    t.works()


@case("1.4, 1.7")
def an_ack_with_a_wrong_id_is_none(t):
    """An ACK of another id than the one in flight changes nothing: the reply is repeated."""
    t.write(t.request("GetContext"))
    t.acknowledged()
    reply = t.reply("GetContext")
    for wrong in (reply.id ^ 1, 0, reply.id | SYNC, 0xFFFFFFFF):
        t.write(control_frame(ACK, wrong))
    t.again(reply)
    t.acknowledge(reply)
    t.works()


@case("1.7")
def an_ack_that_nobody_waits_for_is_ignored(t):
    """ACKs to a target that waits for a request change nothing."""
    t.write(control_frame(ACK, FIRST), control_frame(ACK, SECOND), control_frame(ACK, 0x12345678))
    t.works()


@case("1.7")
def an_ack_that_comes_too_early_is_lost(t):
    """The ACK of a reply that was not sent yet (reordered) does not count: the reply is repeated until it is acknowledged."""
    t.write(control_frame(ACK, t.expected))
    t.write(t.request("GetContext"))
    t.acknowledged()
    reply = t.reply("GetContext")
    t.again(reply)
    t.acknowledge(reply)
    t.works()


@case("1.7")
def a_doubled_ack_counts_once(t):
    """The ACK of a reply comes twice: the second one does not acknowledge the next reply."""
    t.write(t.request("GetContext"))
    t.acknowledged()
    first = t.acknowledge(t.reply("GetContext"))
    t.write(control_frame(ACK, first.id), control_frame(ACK, first.id))
    t.write(t.request("GetVersion"))
    t.acknowledged()
    second = t.reply("GetVersion")
    t.write(control_frame(ACK, first.id))
    t.again(second)
    t.acknowledge(second)
    t.works()


@case("1.7, 1.11")
def a_request_stands_for_the_lost_ack_of_the_state_change(t):
    """The ACK of the state change is lost and a request comes: RESEND, and the repeated request is executed; the reply has the next id."""
    t.reset()
    stop = t.take_state_change(FIRST)
    t.expected, t.last = SECOND, stop
    t.write(t.request("GetVersion"))
    t.control(RESEND)
    t.write(t.request("GetVersion"))
    t.acknowledged()
    t.acknowledge(t.reply("GetVersion"))
    t.works()


@case("1.7")
def the_next_request_stands_for_the_lost_ack_of_a_reply(t):
    """The ACK of a reply is lost and the next request comes: RESEND, then the repeated request is executed."""
    t.write(t.request("GetVersion"))
    t.acknowledged()
    reply = t.reply("GetVersion")
    t.expected, t.last = reply.id ^ 1, reply
    t.write(t.request("GetContext"))
    t.control(RESEND)
    t.write(t.request("GetContext"))
    t.acknowledged()
    t.acknowledge(t.reply("GetContext"))
    t.works()


@case("1.7", kind=REMARK)
def the_same_request_again_is_no_ack_of_its_reply(t):
    """A request comes again while its reply is in flight (its ACK was lost): acknowledged once more, and the reply is repeated. A target that takes it
    for the ACK loses the reply (rule 5 of section 1.7)."""
    packet = t.request("GetContext")
    t.write(packet)
    t.acknowledged()
    reply = t.reply("GetContext")
    t.write(packet)
    got = t.must(t.until(lambda f: f.raw != reply.raw, "ACK"), "ACK")
    if not got.is_control(ACK):
        raise Wrong(f"takes any data packet for the ACK of its reply: {got}")
    t.again(reply)
    t.acknowledge(reply)
    t.works()


@case("1.2")
def several_frames_in_one_write(t):
    """The ACK of a reply and the next request, in one piece, are two frames."""
    for _ in range(4):
        t.write(t.request("GetVersion"))
        t.acknowledged()
        reply = t.reply("GetVersion")
        t.write(control_frame(ACK, reply.id), t.request("GetContext"))
        t.expected, t.last = reply.id ^ 1, reply
        t.acknowledged()
        t.acknowledge(t.reply("GetContext"))
    t.works()


# ---- Lost, doubled, reordered ---------------------------------------------------------------------------------------------------------------

@case("1.7, 1.4")
def a_doubled_request_is_executed_once(t):
    """A request that comes twice is acknowledged twice and answered once."""
    packet = t.request("GetVersion")
    t.write(packet, packet)
    acks = 0
    reply = None
    while reply is None or acks < 2:
        got = t.must(t.raw(), "two ACKs and a reply")
        if got.is_control(ACK) and got.id == t.next_id:
            acks += 1
        elif got.is_control(RESEND) and reply is not None:
            t.remark("takes any data packet for the ACK of its reply")  # the hole in rule 5; the reply is here, so nothing is lost
            acks += 1
        elif got.kind == "data" and got.type == MANIPULATE and got.id == t.expected and (reply is None or got.raw == reply.raw):
            reply = got
        else:
            raise Wrong(f"two ACKs and one reply expected, got {got}")
    t.next_id ^= 1
    t.acknowledge(reply)
    t.works()


@case("1.7, 1.4")
def an_old_request_is_acknowledged_and_dropped(t):
    """A request that was answered comes again: acknowledged with its own id, nothing else."""
    packet = t.request("GetVersion")
    old = t.next_id
    t.strict("GetVersion")
    for _ in range(3):
        t.write(packet)
        t.control(ACK, old)
    t.works()


@case("1.7, 1.4")
def requests_in_the_wrong_order(t):
    """The request after the next one comes first: acknowledged with its own id and dropped; the right one is executed."""
    early = t.next_id ^ 1
    t.write(t.request("GetVersion", packet_id=early))
    t.control(ACK, early)
    t.strict("GetContext")
    t.works()


@case("1.4")
def ids_that_do_not_exist(t):
    """A request with an id far out of step is acknowledged with that id and dropped."""
    for strange in (0, 1, 0x12345678, INITIAL_ID + 2, 0xFFFFFFFF):
        t.write(t.request("GetVersion", packet_id=strange))
        t.control(ACK, strange)
    t.works()


@case("1.4", kind=REMARK)
def a_request_with_the_sync_bit_is_out_of_step(t):
    """The SYNC bit in a debugger's id makes it an unexpected one. (VirtualBox' stub takes such packets.)"""
    strange = t.next_id | SYNC
    t.write(t.request("GetVersion", packet_id=strange))
    t.control(ACK, strange)
    t.works()


@case("1.7", RUNNING)
def a_doubled_continue_continues_once(t):
    """Continue comes twice: the second one is no request of the next stop."""
    t.break_in()
    t.step_over_int3()
    packet = t.request("Continue2", t.continue_union(t.stop))
    t.write(packet, packet)
    t.acknowledged()
    t.frame(t.quiet)  # a running target acknowledges the second one or does not hear it
    t.break_in()
    t.works()


# ---- Damaged (1.5, 1.7) ------------------------------------------------------------------------------------------------------------------------

def flipped(packet, at, bit=0):
    return packet[:at] + bytes([packet[at] ^ 1 << bit]) + packet[at + 1:]


def damaged(t, packet):
    """It must be answered by RESEND, and the right one then be executed as if nothing had been."""
    t.write(packet)
    t.control(RESEND)
    t.strict("GetVersion")


@case("1.5, 1.7")
def a_wrong_checksum(t):
    """A request with a wrong checksum is answered by RESEND and not executed."""
    for at in (12, 13, 15):
        damaged(t, flipped(t.request("GetContext"), at))
    t.works()


@case("1.5, 1.7")
def a_damaged_body(t):
    """One flipped bit anywhere in a body is answered by RESEND."""
    size = len(t.request("GetContext"))
    for at in (16, 16 + 2, 16 + 28, size - 2):
        for bit in (0, 7):
            damaged(t, flipped(t.request("GetContext"), at, bit))
    t.works()


@case("1.1, 1.5")
def a_wrong_trailing_byte(t):
    """The byte behind the body must be AA, else RESEND."""
    for byte in (0x00, 0xAB, 0x30):
        damaged(t, t.request("GetContext")[:-1] + bytes([byte]))
    t.works()


@case("1.5, 1.7")
def a_body_shorter_than_its_message_header(t):
    """Bodies of 0, 1 and 55 bytes cannot be requests: RESEND."""
    for size in (0, 1, 55):
        damaged(t, frame(MANIPULATE, t.next_id, VERSION[:size]))
    t.works()


@case("1.1, 1.5")
def a_body_longer_than_the_largest(t):
    """Lengths above 4000 are answered by RESEND, and no body is waited for: the frame behind the header is found."""
    for size in (4001, 0x7FFF, 0xFFFF):
        t.write(b"0000" + struct.pack("<HHII", MANIPULATE, size, t.next_id, 0), t.request("GetVersion"))
        t.control(RESEND)
        t.acknowledged()
        t.acknowledge(t.reply("GetVersion"))
    t.works()


@case("1.1")
def the_largest_body(t):
    """A body of 4000 bytes is taken."""
    t.strict("GetVersion", data=bytes(3944))
    t.works()


@case("1.7")
def a_damaged_leader(t):
    """A frame whose leader is damaged is noise: no answer, and the repetition is executed."""
    for at in range(4):
        t.write(flipped(t.request("GetVersion"), at, 3))
        t.works()


@case("1.2")
def a_damaged_length(t):
    """A damaged length cannot be noticed. Whatever the target takes for the body: the repetitions are executed in the end."""
    for size in (56 - 8, 56 + 1, 56 + 8, 300, 3999):
        packet = t.request("GetVersion")
        t.write(packet[:6] + struct.pack("<H", size) + packet[8:])
        t.works()


@case("1.5, 1.7")
def a_byte_too_many_and_one_too_few(t):
    """A byte inserted into a body, or lost from it, shifts the rest: the repetition is executed."""
    packet = t.request("GetVersion")
    t.write(packet[:40], b"\0", packet[40:])
    t.works()
    packet = t.request("GetVersion")
    t.write(packet[:40], packet[41:])
    t.works()


# ---- Truncated (1.5, 1.7) -------------------------------------------------------------------------------------------------------------------------

@case("1.7")
def a_header_cut_off(t):
    """A header that stops is given up in silence; repetitions of the request are executed in the end."""
    for size in (1, 3, 4, 5, 6, 8, 11, 12, 15):
        t.write(t.request("GetVersion")[:size])
        t.works()


@case("1.5")
def a_body_cut_off(t):
    """A body that stops is asked for again: RESEND by the target itself, after its time-out."""
    for size in (17, 16 + 28, 16 + 55, 16 + 56):
        t.write(t.request("GetContext")[:size])
        t.control(RESEND)
        t.strict("GetVersion")
    t.works()


@case("1.5, 1.7")
def a_body_cut_off_by_the_next_frame(t):
    """Half a request, and at once the whole one: what is taken for the body's rest is answered by RESEND, the repetition executed."""
    for size in (17, 30, 60):
        packet = t.request("GetVersion")
        t.write(packet[:size], packet)
        t.works()


@case("1.7")
def one_byte_at_a_time(t):
    """Frames need not come in one piece."""
    packet = t.request("GetVersion")
    for at in range(len(packet)):
        t.write(packet[at:at + 1])
        time.sleep(0.002)
    t.acknowledged()
    t.acknowledge(t.reply("GetVersion"))
    t.works()


# ---- Break-in (1.6) ---------------------------------------------------------------------------------------------------------------------------------

@case("1.6", RUNNING)
def a_break_in_stops_a_running_target(t):
    """The byte 62 between frames makes a running target report an exception, code 80000003."""
    stop = t.break_in()
    if stop.code != BREAKPOINT:
        raise Wrong(f"code {BREAKPOINT:#x} expected, got {stop.code:#x}")
    t.works()


@case("1.6", RUNNING)
def a_break_in_packet_of_four_bytes(t):
    """62626262 stops it as one byte does."""
    t.write(b"bbbb")
    t.until_stop()
    t.resync()
    t.works()


@case("1.6", RUNNING)
def two_break_ins(t):
    """Two break-in bytes stop the target; the second may be remembered, and then stops it once more."""
    t.write(b"bb")
    t.until_stop()
    t.works()
    t.go()
    try:
        t.stays_running(min(1.0, 5 * t.quiet))
    except Wrong:
        t.remark("a second break-in byte is remembered: the target stops again after Continue")
        t.works()
        t.go()
    t.break_in()
    t.works()


@case("1.6")
def a_break_in_byte_inside_a_packet_is_data(t):
    """62 in header or body is no break-in: the request is executed, and the target, continued, runs on."""
    t.strict("GetVersion", data=b"b" * 64)
    t.strict("ReadVirtual", b"b" * 16)
    t.works()
    t.run()
    t.stays_running(min(1.0, 5 * t.quiet))
    t.break_in()


@case("1.6, 1.7")
def a_break_in_in_mid_packet(t):
    """A break-in byte that slips into the middle of a packet shifts its bytes: RESEND or silence, and the repetition is executed."""
    for at in (2, 7, 16, 44):
        packet = t.request("GetVersion")
        t.write(packet[:at], b"b", packet[at:])
        settle_after_break_in(t)


def settle_after_break_in(t):
    """A target that remembers a break-in byte while it waits may tell its state change once more (1.6): then a new start."""
    try:
        t.works()
    except Wrong:
        t.remark("a break-in byte while it waits brings the state change again")
        t.resync()
        t.works()


@case("1.6")
def a_break_in_between_packets_while_stopped(t):
    """A break-in byte in front of a request resets the leader scan and may be remembered; the request is executed."""
    for before in (b"b", b"00b", b"bb", b"000b"):
        t.write(before, t.request("GetVersion"))
        got = t.must(t.frame(), "ACK")
        if not got.is_control(ACK) or got.id != t.next_id:
            raise Wrong(f"ACK {t.next_id:#x} expected behind a break-in byte, got {got}")
        t.next_id ^= 1
        t.acknowledge(t.reply("GetVersion"))
    t.works()
    t.go()
    try:
        t.stays_running(min(1.0, 5 * t.quiet))
    except Wrong:
        t.remark("a break-in byte while it is stopped is remembered: the target stops again after Continue")
    t.resync()
    t.works()


@case("1.6")
def a_break_in_while_it_waits(t):
    """A break-in byte to a target that waits: silence, or the state change once more under the next id."""
    t.write(b"b")
    got = t.frame(min(2.0, t.patience))
    if got is not None:
        if got.kind != "data" or got.type != STATE_CHANGE or got.id != t.expected:
            raise Wrong(f"the state change or nothing expected, got {got}")
        t.remark("a break-in byte while it waits brings the state change again")
        t.acknowledge(got)
    t.works()


@case("1.6, 1.7", RUNNING)
def a_break_in_behind_noise(t):
    """Whatever was said to a running target before, the break-in behind it counts."""
    for noise in (b"\0\1\2\3", b"00", b"iii", b"000"):
        t.write(noise, b"b")
        t.until_stop()
        t.resync()
        t.go()
    t.break_in()


# ---- RESEND (1.5) -----------------------------------------------------------------------------------------------------------------------------------

@case("1.5, 1.11")
def a_resend_brings_the_reply_again(t):
    """RESEND instead of the ACK: the same reply under the same id, as often as it is asked for."""
    t.write(t.request("GetContext"))
    t.acknowledged()
    reply = t.reply("GetContext")
    for _ in range(3):
        t.write(control_frame(RESEND))
        t.again(reply)
    t.acknowledge(reply)
    t.works()


@case("1.5")
def a_resend_brings_the_state_change_again(t):
    """RESEND instead of the ACK of the state change: the same one under the same id."""
    t.reset()
    stop = t.take_state_change(FIRST)
    t.write(control_frame(RESEND))
    t.again(stop)
    t.acknowledge(stop)
    t.works()


@case("1.5")
def a_resend_to_a_waiting_target_refreshes_the_state(t):
    """A target that waits for a request answers RESEND with a fresh state change under the next id, not with its last reply."""
    t.strict("GetVersion")
    for _ in range(2):
        t.write(control_frame(RESEND))
        t.acknowledge(t.take_state_change(t.expected))
    t.works()


@case("1.5, 1.7")
def a_resend_with_a_request_behind_it(t):
    """RESEND has no more than its sixteen bytes: the frame behind it is found."""
    t.write(t.request("GetContext"))
    t.acknowledged()
    reply = t.reply("GetContext")
    t.write(control_frame(RESEND), control_frame(ACK, reply.id), t.request("GetVersion"))
    t.expected, t.last = reply.id ^ 1, reply
    t.acknowledged()
    t.acknowledge(t.reply("GetVersion"))
    t.works()


@case("1.5")
def many_resends(t):
    """Ten RESENDs in a row to a waiting target: state changes under rising ids, each to be acknowledged, and then silence."""
    t.write(control_frame(RESEND) * 10)
    told = 0
    while (got := t.frame(max(t.quiet, 1.0) if told else t.patience)) is not None:
        if got.kind != "data" or got.type != STATE_CHANGE or got.id != t.expected:
            raise Wrong(f"a state change under id {t.expected:#x} expected, got {got}")
        t.acknowledge(got)
        told += 1
        if told > 10:
            raise Wrong("ten RESENDs bring more than ten state changes")
    if not told:
        raise Wrong("RESENDs to a waiting target bring no state change")
    t.works()


@case("1.5", RUNNING)
def a_resend_while_running_is_nothing(t):
    """A running target has nothing to send again: it runs on."""
    t.write(control_frame(RESEND))
    t.stays_running(min(1.0, 3 * t.quiet))
    t.break_in()
    t.works()


# ---- What nobody knows (1.3, 1.7, 4.1) -----------------------------------------------------------------------------------------------------------------

@case("1.7")
def unknown_control_packets_are_ignored(t):
    """Control packets of other types change nothing."""
    for packet_type in (0, 1, 3, 7, 8, 12, 0x7FFF, 0xFFFF):
        t.write(control_frame(packet_type, t.next_id))
    t.works()


@case("1.7")
def a_control_packet_with_a_length(t):
    """A control packet has no body, whatever its length field says: the frame behind it is found."""
    t.write(b"iiii" + struct.pack("<HHII", ACK, 56, 0, 0), t.request("GetVersion"))
    t.acknowledged()
    t.acknowledge(t.reply("GetVersion"))
    t.works()


@case("1.7, 1.4")
def a_packet_of_another_type_is_acknowledged_and_dropped(t):
    """A type that the target does not wait for: acknowledged, lost, and the expected id stays."""
    for packet_type in (DEBUG_IO, STATE_CHANGE, 11, 0, 1, 8, 12, 0x7FFF):
        t.write(frame(packet_type, t.next_id, VERSION + bytes(200)))
        t.control(ACK, t.next_id)
    t.works()


@case("4.1")
def an_unknown_api_has_a_status(t):
    """An API number that does not exist is answered with that number and a failure status."""
    for api in (0, 0x3000, 0x314C, 0x3FFF, 0xFFFFFFFF):
        reply = t.strict(api)
        status = struct.unpack_from("<I", reply.body, 8)[0]
        if not status & 0x80000000:
            raise Wrong(f"API {api:#x} succeeds with status {status:#x}")
    t.works()


@case("1.1, 4.4")
def the_largest_reply(t):
    """A read of more than fits is clipped: no body above 4000 bytes, and as many bytes of data as the reply says."""
    base = t.version()
    for count in (3944, 3945, 0x10000):
        reply = t.strict("ReadVirtual", struct.pack("<QII", base, count, 0))
        actual = struct.unpack_from("<I", reply.body, 28)[0]
        if actual != len(reply.body) - 56:
            raise Wrong(f"a read of {count} bytes announces {actual} and brings {len(reply.body) - 56}")
        if actual == 0:
            t.remark(f"{count} bytes at the kernel's base cannot be read")
    t.works()


@case("1.8", RUNNING, REMARK)
def a_request_to_a_running_target_is_not_executed(t):
    """Requests are for stopped targets: a running one does not answer, and stops at a break-in as ever."""
    t.write(frame(MANIPULATE, t.next_id, VERSION))
    got = t.frame(min(1.0, 3 * t.quiet))
    t.resync()
    t.works()
    if got is not None and got.kind == "data" and got.type == MANIPULATE:
        raise Wrong("a running target answers a request")
    if got is not None:
        t.remark(f"says {got} to a request while it runs")


@case("1.7")
def noise_between_frames(t):
    """Bytes that are no leader are skipped, half a leader too, and a leader of the other kind begins a new count."""
    for noise in (b"\0", b"00", b"iii", b"0i0i0i0", b"000i", b"iii0", bytes(range(0x63, 0x100)) * 4):
        t.write(noise)
        t.works()


@case("1.7")
def a_leader_too_long(t):
    """A fifth leader byte shifts the header: the repetitions are executed in the end."""
    for extra in (b"0", b"00", b"0000", b"iiii"):
        t.write(extra, t.request("GetVersion"))
        t.works()


@case("1.7")
def much_noise(t):
    """Sixteen thousand bytes of noise change nothing."""
    t.write(bytes((i * 7 & 0xFF) | 0x80 for i in range(16384)))
    t.works()

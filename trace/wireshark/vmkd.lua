-- SPDX-License-Identifier: MIT
-- Wireshark and tshark read the traces of vmkd with this: KD packets with every field of every API, by the names of `vmkd trace show`.
--
--   tshark -X lua_script:vmkd.lua -r FILE.pcapng -Y 'kd.api == 0x3130'      or copy it to Wireshark's folder of personal Lua plugins
--
-- It takes the packets of link type USER0, which is what vmkd's traces are of, and knows KDCOM on TCP when it sees it (or is told: "Decode As").
-- Facts: KD reference, sections 1, 3, 4, 5.

local kd = Proto("kd", "Windows kernel debugger (KD)")

-- ---- Names ---------------------------------------------------------------------------------------------------

local types = {
	[1] = "STATE_CHANGE32", [2] = "MANIPULATE", [3] = "DEBUG_IO", [4] = "ACK", [5] = "RESEND", [6] = "RESET", [7] = "STATE_CHANGE",
	[9] = "TRACE_IO", [10] = "CONTROL_REQUEST", [11] = "FILE_IO",
}
local states = { [0x3030] = "EXCEPTION", [0x3031] = "LOAD_SYMBOLS", [0x3032] = "COMMAND_STRING" }

-- A field of a structure: name, offset, bytes.
local memory = { { "address", 0, 8 }, { "count", 8, 4 }, { "actual_bytes", 12, 4 } }
local context = { { "context_flags", 0, 4 } }
local context_ex = { { "offset", 0, 4 }, { "count", 4, 4 }, { "copied", 8, 4 } }
local breakpoint = { { "address", 0, 8 }, { "handle", 8, 4 } }
local breakpoint_ex = { { "count", 0, 4 }, { "continue_status", 4, 4 } }
local io = { { "address", 0, 8 }, { "size", 8, 4 }, { "value", 12, 4 } }
local io_extended = {
	{ "size", 0, 4 }, { "interface_type", 4, 4 }, { "bus", 8, 4 }, { "address_space", 12, 4 }, { "address", 16, 8 }, { "value", 24, 4 },
}
local msr = { { "msr", 0, 4 }, { "msr_value", 4, 8 } }
local bus = { { "bus_type", 0, 4 }, { "bus", 4, 4 }, { "slot", 8, 4 }, { "offset", 12, 4 }, { "length", 16, 4 } }
local none = {}
local continue2_x64 = {
	{ "continue_status", 0, 4 }, { "trace", 4, 4 }, { "dr7", 8, 8 }, { "symbol_start", 16, 8 }, { "symbol_end", 24, 8 },
}
local continue2_x86 = { -- "x": an address of 32 bits, sign-extended
	{ "continue_status", 0, 4 }, { "trace", 4, 4 }, { "dr7", 8, 4 }, { "symbol_start", 12, 4, "x" }, { "symbol_end", 16, 4, "x" },
}
local version = {
	{ "version.major", 0, 2 }, { "version.minor", 2, 2 }, { "version.protocol", 4, 1 }, { "version.secondary", 5, 1 },
	{ "version.flags", 6, 2 }, { "version.machine", 8, 2 }, { "version.max_packet_type", 10, 1 }, { "version.max_state_change", 11, 1 },
	{ "version.max_manipulate", 12, 1 }, { "version.simulation", 13, 1 }, { "version.unused", 14, 2 }, { "version.kern_base", 16, 8 },
	{ "version.loaded_module_list", 24, 8 }, { "version.debugger_data_list", 32, 8 },
}
local get_internal = {
	{ "address", 0, 8 }, { "flags", 8, 4 }, { "calls", 12, 4 }, { "max_calls", 16, 4 }, { "min_instructions", 20, 4 },
	{ "max_instructions", 24, 4 }, { "total_instructions", 28, 4 },
}
local custom_breakpoint = {
	{ "address", 0, 8 }, { "instruction", 8, 8 }, { "handle", 16, 4 }, { "instruction_size", 20, 1 }, { "alignment", 21, 1 },
}

-- Number -> name, layout of the 40 bytes.
local apis = {
	[0x3130] = { "READ_VIRTUAL", memory }, [0x3131] = { "WRITE_VIRTUAL", memory },
	[0x3132] = { "GET_CONTEXT", context }, [0x3133] = { "SET_CONTEXT", context },
	[0x3134] = { "WRITE_BREAKPOINT", breakpoint }, [0x3135] = { "RESTORE_BREAKPOINT", { { "handle", 0, 4 } } },
	[0x3136] = { "CONTINUE", { { "continue_status", 0, 4 } } },
	[0x3137] = { "READ_CONTROL_SPACE", memory }, [0x3138] = { "WRITE_CONTROL_SPACE", memory },
	[0x3139] = { "READ_IO", io }, [0x313A] = { "WRITE_IO", io }, [0x313B] = { "REBOOT", none },
	[0x313C] = { "CONTINUE2", continue2_x64, continue2_x86 },
	[0x313D] = { "READ_PHYSICAL", memory }, [0x313E] = { "WRITE_PHYSICAL", memory },
	[0x313F] = { "QUERY_SPECIAL_CALLS", { { "count", 0, 4 } } }, [0x3140] = { "SET_SPECIAL_CALL", { { "address", 0, 8 } } },
	[0x3141] = { "CLEAR_SPECIAL_CALLS", none }, [0x3142] = { "SET_INTERNAL_BREAKPOINT", { { "address", 0, 8 }, { "flags", 8, 4 } } },
	[0x3143] = { "GET_INTERNAL_BREAKPOINT", get_internal },
	[0x3144] = { "READ_IO_EXTENDED", io_extended }, [0x3145] = { "WRITE_IO_EXTENDED", io_extended },
	[0x3146] = { "GET_VERSION", version },
	[0x3147] = { "WRITE_BREAKPOINT_EX", breakpoint_ex }, [0x3148] = { "RESTORE_BREAKPOINT_EX", breakpoint_ex },
	[0x3149] = { "CAUSE_BUGCHECK", none }, [0x3150] = { "SWITCH_PROCESSOR", none }, [0x3151] = { "PAGE_IN", none },
	[0x3152] = { "READ_MSR", msr }, [0x3153] = { "WRITE_MSR", msr }, [0x3154] = { "OLD_VLM1", none }, [0x3155] = { "OLD_VLM2", none },
	[0x3156] = { "SEARCH_MEMORY", { { "address", 0, 8 }, { "length", 8, 8 }, { "pattern_len", 16, 4 } } },
	[0x3157] = { "GET_BUS_DATA", bus }, [0x3158] = { "SET_BUS_DATA", bus }, [0x3159] = { "CHECK_LOW_MEMORY", none },
	[0x315A] = { "CLEAR_ALL_INTERNAL_BREAKPOINTS", none },
	[0x315B] = { "FILL_MEMORY", { { "address", 0, 8 }, { "length", 8, 4 }, { "flags", 12, 2 }, { "pattern_len", 14, 2 } } },
	[0x315C] = { "QUERY_MEMORY", { { "address", 0, 8 }, { "reserved", 8, 8 }, { "space", 16, 4 }, { "flags", 20, 4 } } },
	[0x315D] = { "SWITCH_PARTITION", { { "partition", 0, 4 } } }, [0x315E] = { "WRITE_CUSTOM_BREAKPOINT", custom_breakpoint },
	[0x315F] = { "GET_CONTEXT_EX", context_ex }, [0x3160] = { "SET_CONTEXT_EX", context_ex },
}
local api_names = {
	[0x3230] = "PRINT", [0x3231] = "PROMPT", [0x3330] = "TRACE", [0x3430] = "CREATE", [0x3431] = "READ", [0x3432] = "WRITE", [0x3433] = "CLOSE",
	[0x4300] = "REQUEST_HARDWARE_BP", [0x4301] = "RELEASE_HARDWARE_BP",
}
for number, api in pairs(apis) do api_names[number] = api[1] end

-- ---- Fields --------------------------------------------------------------------------------------------------

local fields, makers = {}, {
	h8 = function(abbr, name) return ProtoField.uint8(abbr, name, base.HEX) end,
	h16 = function(abbr, name, values) return ProtoField.uint16(abbr, name, base.HEX, values) end,
	h32 = function(abbr, name, values) return ProtoField.uint32(abbr, name, base.HEX, values) end,
	h64 = function(abbr, name) return ProtoField.uint64(abbr, name, base.HEX) end,
	d8 = function(abbr, name) return ProtoField.uint8(abbr, name, base.DEC) end,
	d16 = function(abbr, name) return ProtoField.uint16(abbr, name, base.DEC) end,
	d32 = function(abbr, name) return ProtoField.uint32(abbr, name, base.DEC) end,
	d64 = function(abbr, name) return ProtoField.uint64(abbr, name, base.DEC) end,
	text = function(abbr, name) return ProtoField.string(abbr, name) end,
	bytes = function(abbr, name) return ProtoField.bytes(abbr, name) end,
	frame = function(abbr, name) return ProtoField.framenum(abbr, name) end,
}

local function define(maker, names, values)
	for name in names:gmatch("%S+") do
		fields[name] = makers[maker]("kd." .. name, (name:gsub("[._]", " ")), values)
	end
end

define("h16", "type", types)
define("h32", "api", api_names)
define("h32", "state", states)
define("h32", "id checksum status flags value msr context_flags continue_status exception.code exception.flags load.checksum load.image_size")
define("h32", "command.flags report.eflags file.desired_access file.attributes file.share_access file.options")
define("h64", "address msr_value dr7 symbol_start symbol_end instruction reserved thread pc exception.record exception.address")
define("h64", "exception.parameter load.base load.process_id report.dr6 report.dr7 file.handle file.offset")
define("h64", "version.kern_base version.loaded_module_list version.debugger_data_list")
define("h16", "version.major version.flags version.machine version.unused report.flags report.cs report.ds report.es report.fs")
define("d8", "breakin version.protocol version.secondary version.max_packet_type version.max_state_change version.max_manipulate")
define("d8", "version.simulation instruction_size alignment load.is_unload is_alternate")
define("d16", "len processor_level processor version.minor report.instruction_count")
define("d32", "count actual_bytes offset copied handle size interface_type bus address_space bus_type slot pattern_len space partition")
define("d32", "calls max_calls min_instructions max_instructions total_instructions trace processor_count exception.parameter_count")
define("d32", "exception.first_chance load.name_len read_length control.number control.answer file.disposition")
define("d64", "length file.length")
define("text", "damage malformed text load.path command.name command.text file.name")
define("bytes", "data raw report.instructions")
define("frame", "reply_in request_in")

local list = {}
for _, field in pairs(fields) do list[#list + 1] = field end
kd.fields = list

local bad_frame = ProtoExpert.new("kd.damage.expert", "Damaged frame", expert.group.CHECKSUM, expert.severity.ERROR)
local bad_body = ProtoExpert.new("kd.malformed.expert", "Body cannot be decoded", expert.group.MALFORMED, expert.severity.WARN)
local failed = ProtoExpert.new("kd.status.failed", "Request failed", expert.group.RESPONSE_CODE, expert.severity.NOTE)
kd.experts = { bad_frame, bad_body, failed }

local interface_id, interface_name = Field.new("frame.interface_id"), Field.new("frame.interface_name")
local tcp_stream = Field.new("tcp.stream")

-- ---- What is remembered of a file ------------------------------------------------------------------------------

local X64, X86 = 0x8664, 0x014C
local machine          -- as the packets so far tell
local machine_at       -- of each frame, since packets are looked at again out of order
local pending          -- endpoint -> the request that waits for its reply
local reply_in, request_in
local target_port      -- TCP stream -> the port that states and prints come from

function kd.init()
	machine, machine_at, pending, reply_in, request_in, target_port = X64, {}, {}, {}, {}, {}
end

-- ---- Text ----------------------------------------------------------------------------------------------------

local short = { [10] = "\\n", [13] = "\\r", [9] = "\\t", [92] = "\\\\" }

local function escape(range, width)
	local out, format = {}, width == 2 and "\\u%04X" or "\\x%02X"
	for at = 0, range:len() - width, width do
		local c = range(at, width):le_uint()
		out[#out + 1] = short[c] or (c >= 0x20 and c < 0x7F and string.char(c)) or format:format(c)
	end
	return table.concat(out)
end

local function add_text(tree, name, range, width)
	if range and range:len() > 0 then
		tree:add(fields[name], range, escape(range, width or 1))
	end
end

-- Bytes up to a NUL, at most `len`; nil = none.
local function until_nul(body, offset, len)
	local n = 0
	while n < len and body(offset + n, 1):uint() ~= 0 do n = n + 1 end
	return n > 0 and body(offset, n) or nil, n
end

local function rest(body, offset)
	return body:len() > offset and body(offset) or nil
end

local function add_data(tree, body, offset)
	local range = rest(body, offset)
	if range then tree:add(fields.data, range) end
end

local function add_fields(tree, body, offset, layout)
	for _, f in ipairs(layout) do
		local range = body(offset + f[2], f[3])
		if f[4] then
			local low = range:le_uint()
			tree:add_le(fields[f[1]], range, UInt64(low, low >= 0x80000000 and 0xFFFFFFFF or 0))
		else
			tree:add_le(fields[f[1]], range)
		end
	end
end

-- ---- State changes -------------------------------------------------------------------------------------------

local function looks_32bit(body, offset)
	local low, high = body(offset, 4):le_uint(), body(offset + 4, 4):le_uint()
	return high == 0 or (high == 0xFFFFFFFF and low >= 0x80000000)
end

local function guess_machine(body)
	if body:len() < 240 then return nil end
	if not looks_32bit(body, 0x10) or not looks_32bit(body, 0x18) then return X64 end
	if body(0x10, 4):le_uint() ~= 0 or body(0x14, 4):le_uint() ~= 0 then return X86 end
	if body(0xD4, 2):le_uint() <= 16 and body(0xE8, 2):le_uint() == 0x10 then return X64 end
	if body(0xC8, 2):le_uint() <= 16 and body(0xDC, 2):le_uint() == 0x08 then return X86 end
	return nil
end

local head = { { "processor_level", 4, 2 }, { "processor", 6, 2 }, { "processor_count", 8, 4 }, { "thread", 16, 8 }, { "pc", 24, 8 } }
local exception = {
	{ "exception.code", 0, 4 }, { "exception.flags", 4, 4 }, { "exception.record", 8, 8 }, { "exception.address", 16, 8 },
	{ "exception.parameter_count", 24, 4 },
}
local load_symbols = {
	{ "load.name_len", 0, 4 }, { "load.base", 8, 8 }, { "load.process_id", 16, 8 }, { "load.checksum", 24, 4 }, { "load.image_size", 28, 4 },
	{ "load.is_unload", 32, 1 },
}
local report_x64 = {
	{ "report.dr6", 0, 8 }, { "report.dr7", 8, 8 }, { "report.eflags", 16, 4 }, { "report.instruction_count", 20, 2 }, { "report.flags", 22, 2 },
	{ "report.cs", 40, 2 }, { "report.ds", 42, 2 }, { "report.es", 44, 2 }, { "report.fs", 46, 2 },
}
local report_x86 = {
	{ "report.dr6", 0, 4 }, { "report.dr7", 4, 4 }, { "report.eflags", 36, 4 }, { "report.instruction_count", 8, 2 }, { "report.flags", 10, 2 },
	{ "report.cs", 28, 2 }, { "report.ds", 30, 2 }, { "report.es", 32, 2 }, { "report.fs", 34, 2 },
}

local function add_exception(tree, body)
	add_fields(tree, body, 0x20, exception)
	for i = 0, body(0x38, 4):le_uint() - 1 do
		tree:add_le(fields["exception.parameter"], body(0x40 + 8 * i, 8))
	end
	tree:add_le(fields["exception.first_chance"], body(0xB8, 4))
end

local function add_report(tree, body, is_x64)
	local count = body(is_x64 and 0xD4 or 0xC8, 2):le_uint()
	tree = tree:add(body(0xC0, 48), "Control report")
	add_fields(tree, body, 0xC0, is_x64 and report_x64 or report_x86)
	if count > 0 then tree:add(fields["report.instructions"], body(is_x64 and 0xD8 or 0xCC, count)) end
end

local function state_change(tree, body, m)
	local len, is_x64 = body:len(), m == X64
	if len < 240 then return "short" end
	local new = body(0, 4):le_uint()
	local alternate = bit32.band(new, 0x10000) ~= 0
	local state = bit32.band(new, 0xFFFEFFFF)
	if body(is_x64 and 0xD4 or 0xC8, 2):le_uint() > 16 then return "range" end
	if state == 0x3030 and body(0x38, 4):le_uint() > 15 then return "range" end
	if state == 0x3031 and body(0x20, 4):le_uint() > len - 240 then return "range" end
	if not states[state] then return "unknown" end
	tree:add(fields.state, body(0, 4), state)
	tree:add(fields.is_alternate, body(2, 1), alternate and 1 or 0)
	add_fields(tree, body, 0, head)
	local info = ("%s at %s"):format(states[state], tostring(body(0x18, 8):le_uint64():tohex()))
	if state == 0x3030 then
		add_exception(tree, body)
		info = ("%s %08x at %s"):format(states[state], body(0x20, 4):le_uint(), body(0x18, 8):le_uint64():tohex())
	elseif state == 0x3031 then
		add_fields(tree, body, 0x20, load_symbols)
		local path = until_nul(body, 240, body(0x20, 4):le_uint())
		add_text(tree, "load.path", path)
		info = ("%s %s"):format(body(0x40, 1):uint() ~= 0 and "unload" or "load", path and escape(path, 1) or "-")
	else
		local name, n = until_nul(body, 240, len - 240)
		tree:add_le(fields["command.flags"], body(0x20, 4))
		add_text(tree, "command.name", name)
		if len - 240 - n > 1 then add_text(tree, "command.text", (until_nul(body, 240 + n + 1, len - 240 - n - 1))) end
	end
	add_report(tree, body, is_x64)
	add_data(tree, body, 240)
	return nil, info
end

-- ---- The other packets -----------------------------------------------------------------------------------------

local function manipulate(tree, body, m)
	if body:len() < 56 then return "short" end
	local number = body(0, 4):le_uint()
	local api = apis[number]
	tree:add_le(fields.api, body(0, 4))
	add_fields(tree, body, 0, { { "processor_level", 4, 2 }, { "processor", 6, 2 } })
	local status = tree:add_le(fields.status, body(8, 4))
	if body(8, 4):le_uint() >= 0x80000000 then status:add_proto_expert_info(failed) end
	if not api then
		tree:add(fields.raw, body(16, 40))
	else
		add_fields(tree, body, 16, m == X86 and api[3] or api[2])
	end
	add_data(tree, body, 56)
	local info = api and api[1] or ("API %04x"):format(number)
	if api and api[2][1] and api[2][1][1] == "address" then info = info .. " " .. body(16, 8):le_uint64():tohex() end
	return nil, info
end

local function debug_io(tree, body)
	if body:len() < 16 then return "short" end
	local api, length = body(0, 4):le_uint(), body(8, 4):le_uint()
	if api ~= 0x3230 and api ~= 0x3231 then return "unknown" end
	if api == 0x3230 and length > body:len() - 16 then return "range" end
	tree:add_le(fields.api, body(0, 4))
	add_fields(tree, body, 0, { { "processor_level", 4, 2 }, { "processor", 6, 2 }, { "length", 8, 4 }, { "read_length", 12, 4 } })
	local text = rest(body, 16)
	if api == 0x3230 then text = length > 0 and body(16, length) or nil end
	add_text(tree, "text", text)
	return nil, ("%s \"%s\""):format(api_names[api], text and escape(text, 1) or "")
end

local file_create = {
	{ "file.desired_access", 8, 4 }, { "file.attributes", 12, 4 }, { "file.share_access", 16, 4 }, { "file.disposition", 20, 4 },
	{ "file.options", 24, 4 }, { "file.handle", 32, 8 }, { "file.length", 40, 8 },
}
local file_transfer = { { "file.handle", 8, 8 }, { "file.offset", 16, 8 }, { "file.length", 24, 4 } }

local function file_io(tree, body)
	if body:len() < 64 then return "short" end
	local api = body(0, 4):le_uint()
	if api < 0x3430 or api > 0x3433 then return "unknown" end
	if api == 0x3430 and body:len() % 2 ~= 0 then return "range" end
	tree:add_le(fields.api, body(0, 4))
	tree:add_le(fields.status, body(4, 4))
	if api == 0x3430 then
		add_fields(tree, body, 0, file_create)
		add_text(tree, "file.name", rest(body, 64), 2)
	elseif api == 0x3433 then
		tree:add_le(fields["file.handle"], body(8, 8))
		add_data(tree, body, 64)
	else
		add_fields(tree, body, 0, file_transfer)
		add_data(tree, body, 64)
	end
	return nil, "file " .. api_names[api]
end

local function trace_io(tree, body)
	if body:len() < 64 then return "short" end
	if body(0, 4):le_uint() ~= 0x3330 then return "unknown" end
	if body(8, 4):le_uint() > body:len() - 64 then return "range" end
	tree:add_le(fields.api, body(0, 4))
	add_fields(tree, body, 0, { { "processor_level", 4, 2 }, { "processor", 6, 2 }, { "length", 8, 4 } })
	add_data(tree, body, 64)
	return nil, "TRACE"
end

local function control_request(tree, body)
	if body:len() < 12 then return "short" end
	local api = body(0, 4):le_uint()
	if api ~= 0x4300 and api ~= 0x4301 then return "unknown" end
	tree:add_le(fields.api, body(0, 4))
	add_fields(tree, body, 0, { { "control.number", 4, 4 }, { "control.answer", 8, 4 } })
	return nil, api_names[api]
end

local bodies = { [2] = manipulate, [3] = debug_io, [7] = state_change, [9] = trace_io, [10] = control_request, [11] = file_io }

-- ---- Packets ---------------------------------------------------------------------------------------------------

-- Where this packet is of, and whether it comes from the target: true, false, nil = not known.
local function origin(pinfo, type)
	local stream = tcp_stream()
	if stream then
		local key = "tcp" .. tostring(stream)
		if type == 7 or type == 9 then target_port[key] = pinfo.src_port end
		return key, target_port[key] and (target_port[key] == pinfo.src_port) or nil
	end
	local id = interface_id()
	local from_target = nil
	if pinfo.p2p_dir == P2P_DIR_RECV then from_target = true elseif pinfo.p2p_dir == P2P_DIR_SENT then from_target = false end
	return "if" .. (id and tostring(id) or ""), from_target
end

-- In the order of the file, once for each frame.
local function learn(pinfo, at, type, body, key, from_target)
	if pinfo.visited and machine_at[at] then return machine_at[at] end
	local told = nil
	if type == 7 then
		told = guess_machine(body)
	elseif type == 2 and body:len() >= 56 then
		local api = body(0, 4):le_uint()
		if api == 0x3146 and from_target ~= false then told = body(24, 2):le_uint() end
		if from_target then
			local request = pending[key]
			if request and request.api == api then
				reply_in[request.at], request_in[at] = pinfo.number, request.number
				pending[key] = nil
			end
		else
			pending[key] = { number = pinfo.number, at = at, api = api }
		end
	end
	if told == X64 or told == X86 then machine = told end
	machine_at[at] = machine
	return machine
end

local function add_match(tree, name, frame)
	if frame then tree:add(fields[name], frame):set_generated() end
end

local function add_body(tree, pinfo, at, type, body)
	local key, from_target = origin(pinfo, type)
	local m = learn(pinfo, at, type, body, key, from_target)
	local problem, info = "unknown", nil
	if bodies[type] then problem, info = bodies[type](tree, body, m) end
	if problem then
		tree:add(fields.malformed, body, problem):add_proto_expert_info(bad_body)
		add_data(tree, body, 0)
	end
	add_match(tree, "reply_in", reply_in[at])
	add_match(tree, "request_in", request_in[at])
	local way = from_target and "" or from_target == false and " request" or ""
	return (info or types[type] or ("packet type %d"):format(type)) .. (type == 2 and way or "")
end

-- What is wrong with a data frame, as far as its bytes tell; nil = nothing.
local function damage_of(range, said)
	local len = range:len()
	if said > 4000 then return "size" end
	if len <= 16 + said then return "truncated" end
	if range(16 + said, 1):uint() ~= 0xAA then return "trailer" end
	local sum, bytes = 0, range(16, said + 1):bytes() -- with the trailer: a range of no bytes is none
	for i = 0, said - 1 do sum = sum + bytes:get_index(i) end
	return sum ~= range(12, 4):le_uint() and "checksum" or nil
end

local function add_damage(tree, range, what)
	tree:add(fields.damage, range, what):add_proto_expert_info(bad_frame, "Damaged frame: " .. what)
end

-- One data frame: at least its 16 bytes of head are there.
local function add_data_frame(tree, pinfo, at, range)
	local said = range(6, 2):le_uint()
	local damage = damage_of(range, said)
	if damage then add_damage(tree, range, damage) end
	local type = range(4, 2):le_uint()
	tree:add_le(fields.type, range(4, 2))
	tree:add_le(fields.id, range(8, 4))
	tree:add_le(fields.len, range(6, 2))
	tree:add_le(fields.checksum, range(12, 4))
	local there = math.min(said, range:len() - 16)
	if damage then
		if there > 0 then tree:add(fields.data, range(16, there)) end
		return ("damaged %s (%s)"):format(types[type] or "packet", damage)
	end
	if there == 0 then
		tree:add(fields.malformed, range(16, 1), bodies[type] and "short" or "unknown"):add_proto_expert_info(bad_body)
		return types[type] or "packet"
	end
	return add_body(tree, pinfo, at, type, range(16, there))
end

-- One frame, break-in byte, or what is none; -> a line about it.
local function add_frame(tree, pinfo, at, range)
	local len = range:len()
	if len == 1 and range(0, 1):uint() == 0x62 then
		tree:add(fields.breakin, range(0, 1), 1)
		return "break-in"
	end
	local leader = len >= 4 and range(0, 4):le_uint() or 0
	if leader ~= 0x30303030 and leader ~= 0x69696969 then
		tree:add(fields.data, range)
		return "no frame"
	end
	if len < 16 then
		add_damage(tree, range, "truncated")
		return "damaged frame (truncated)"
	end
	if leader == 0x30303030 then return add_data_frame(tree, pinfo, at, range) end
	tree:add_le(fields.type, range(4, 2))
	tree:add_le(fields.id, range(8, 4))
	return types[range(4, 2):le_uint()] or "control packet"
end

local function place(pinfo)
	local name = interface_name()
	local other = name and tostring(name) or "target"
	if pinfo.p2p_dir == P2P_DIR_RECV then
		pinfo.cols.src, pinfo.cols.dst = other == "guest" and "guest" or "target", other == "guest" and "debugger" or other
	elseif pinfo.p2p_dir == P2P_DIR_SENT then
		pinfo.cols.src, pinfo.cols.dst = other == "guest" and "debugger" or other, other == "guest" and "guest" or "target"
	end
end

function kd.dissector(tvb, pinfo, root)
	pinfo.cols.protocol = "KD"
	place(pinfo)
	if tvb:len() == 0 then
		pinfo.cols.info = "(a comment)"
		return 0
	end
	local tree = root:add(kd, tvb())
	pinfo.cols.info = add_frame(tree, pinfo, tostring(pinfo.number), tvb())
	return tvb:len()
end

-- ---- KDCOM on TCP ------------------------------------------------------------------------------------------------

-- The frame at `offset`: its bytes, or nil and how many more are wanted at least.
local function next_frame(tvb, offset)
	local left = tvb:len() - offset
	local first = tvb(offset, 1):uint()
	if first ~= 0x30 and first ~= 0x69 then return 1 end
	if left < 16 then return nil, DESEGMENT_ONE_MORE_SEGMENT end
	local leader = tvb(offset, 4):le_uint()
	if leader == 0x69696969 then return 16 end
	if leader ~= 0x30303030 then return 1 end
	local said = tvb(offset + 6, 2):le_uint()
	if said > 4000 then return 16 end
	if left < 17 + said then return nil, 17 + said - left end
	return 17 + said
end

local kdcom = Proto("kdcom", "KDCOM (KD on a byte stream)")

function kdcom.dissector(tvb, pinfo, root)
	pinfo.cols.protocol = "KD"
	local offset, lines = 0, {}
	while offset < tvb:len() do
		local len, more = next_frame(tvb, offset)
		if not len then
			pinfo.desegment_offset, pinfo.desegment_len = offset, more
			break
		end
		local range = tvb(offset, len)
		local tree = root:add(kd, range)
		lines[#lines + 1] = add_frame(tree, pinfo, pinfo.number .. ":" .. offset, range)
		offset = offset + len
	end
	pinfo.cols.info = table.concat(lines, ", ")
	return tvb:len()
end

-- Whole leader, known type, possible length: no other protocol begins like this.
local function is_kdcom(tvb)
	if tvb:len() < 16 then return false end
	local leader, type, said = tvb(0, 4):le_uint(), tvb(4, 2):le_uint(), tvb(6, 2):le_uint()
	if leader == 0x69696969 then return type >= 4 and type <= 6 and said == 0 end
	return leader == 0x30303030 and bodies[type] ~= nil and said <= 4000
end

kdcom:register_heuristic("tcp", function(tvb, pinfo, root)
	if not is_kdcom(tvb) then return false end
	pinfo.conversation = kdcom
	kdcom.dissector(tvb, pinfo, root)
	return true
end)
DissectorTable.get("tcp.port"):add_for_decode_as(kdcom)
DissectorTable.get("wtap_encap"):add(wtap.USER0, kd)

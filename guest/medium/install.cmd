@echo off
rem SPDX-License-Identifier: MIT
rem Prepares this Windows for vmkd. What is changed, and why, for each Windows: docs/guest.md; for users: README.txt.
rem
rem   install.cmd [/default] [/timeout SECONDS] [/driver] [/bitlocker]
rem
rem Exit status: 0 done, or done before; 1 refused, nothing was changed; 2 failed, what had been changed was undone;
rem 3 an earlier run was cut short, or an undo was not complete: run uninstall.cmd.
rem
rem Rules that keep this right on every Windows from XP to 11:
rem - Tools' output is localised. Only registry data, GUIDs and attribute letters are read from it, never a word.
rem - A line goes into the journal before the change that it is about. Each line ends in *end, so that a torn one is seen.
rem - No delayed expansion: data may hold an exclamation mark. Data goes through FOR variables, or is freed of quotes first.
rem - Exit statuses are compared with 0, since certutil's are negative; no && and ||, which Wine 8's cmd does not know.
rem   Of the built-in commands not all set one: what they did is looked at.
rem - FOR bodies of more than one command stand in parentheses, which Wine 8 needs.
rem - One command a line: the test cuts the scripts short between any two of them.
setlocal enableextensions disabledelayedexpansion
set "MEDIUM=%~dp0"
set "KEEP=%SystemRoot%\vmkd"
set "JOURNAL=%KEEP%\journal.txt"
set "SYSTEM32=%SystemRoot%\System32"
set "ENTRY_NAME=vmkd debugging"
set "HEX=0123456789abcdefABCDEF"
set "BOOTMGR=HKLM\BCD00000000\Objects\{9dea862c-5cdd-4e70-acc1-f32b344d4795}\Elements"
rem Tools come from System32 alone, not from the folder that this was started in.
set "PATH=%SystemRoot%\System32"
rem A variable of this name would hide the exit status.
set "ERRORLEVEL="
set "PATHEXT=.COM;.EXE;.BAT;.CMD"
cd /d "%SystemRoot%"

set "WANT_DEFAULT="
set "WANT_TIMEOUT="
set "WANT_BITLOCKER="
set "ONLY_DRIVER="
:options
if "%~1"=="" goto :options_done
if /i "%~1"=="/default" set "WANT_DEFAULT=1"& goto :next_option
if /i "%~1"=="/bitlocker" set "WANT_BITLOCKER=1"& goto :next_option
if /i "%~1"=="/driver" set "ONLY_DRIVER=1"& goto :next_option
if /i "%~1"=="/timeout" goto :option_timeout
echo usage: install.cmd [/default] [/timeout SECONDS] [/driver] [/bitlocker]
echo   /default    "%ENTRY_NAME%" becomes the boot menu's default (otherwise the default stays)
echo   /timeout    how long the boot menu waits (otherwise as it is)
echo   /driver     only the run-time driver vmkd.sys: no transport module, no boot entry
echo   /bitlocker  go on although BitLocker protects the system drive
exit /b 1
:option_timeout
set "WANT_TIMEOUT="
set /a WANT_TIMEOUT=%~2 2>nul
if not "%WANT_TIMEOUT%"=="%~2" goto :bad_timeout
if not defined WANT_TIMEOUT goto :bad_timeout
if %WANT_TIMEOUT% lss 0 goto :bad_timeout
if %WANT_TIMEOUT% gtr 999 goto :bad_timeout
shift
:next_option
shift
goto :options
:bad_timeout
echo vmkd: /timeout wants seconds, 0 to 999, as in: install.cmd /timeout 5
exit /b 1
:options_done

rem ---- What is needed. Nothing is changed before all of it is there. -------------------------------------------------
if "%SystemRoot: =%"=="%SystemRoot%" goto :root_plain
echo vmkd: Windows lies in "%SystemRoot%"; a folder with a blank in its name was never tried, so this stops here.
exit /b 1
:root_plain
rem A user without the rights of an administrator may not read this key; the same on every Windows.
reg query HKU\S-1-5-19 >nul 2>nul
if not "%errorlevel%"=="0" goto :not_admin
rem In a 32-bit cmd on 64-bit Windows System32 is really SysWOW64.
if not defined PROCESSOR_ARCHITEW6432 goto :native
echo vmkd: this is a 32-bit cmd on a 64-bit Windows. Use the normal one: Start, type cmd, "Run as administrator".
exit /b 1
:native
set "ARCH="
if /i "%PROCESSOR_ARCHITECTURE%"=="AMD64" set "ARCH=x64"
if /i "%PROCESSOR_ARCHITECTURE%"=="x86" set "ARCH=x86"
if defined ARCH goto :arch_known
echo vmkd: processor architecture "%PROCESSOR_ARCHITECTURE%" is not supported; expected AMD64 or x86.
exit /b 1
:arch_known
set "DLL=%MEDIUM%%ARCH%\kdvmkd.dll"
set "SYS=%MEDIUM%%ARCH%\vmkd.sys"
set "MISSING="
for %%f in ("%DLL%" "%SYS%" "%MEDIUM%vmkd-test.cer" "%MEDIUM%vmkd-test.id" "%MEDIUM%uninstall.cmd") do if not exist %%f set "MISSING=%%~f"
if not defined MISSING goto :medium_complete
echo vmkd: "%MISSING%" is missing; run install.cmd from the vmkd medium.
exit /b 1
:medium_complete

if exist "%KEEP%\setup.txt" echo vmkd: this Windows was prepared from outside, by "vmkd setup"; nothing was changed. On the host, with the VM off: vmkd setup --undo IMAGE& exit /b 1
if not exist "%JOURNAL%" goto :no_journal
find "done*-*-*end" <"%JOURNAL%" >nul
if not "%errorlevel%"=="0" goto :cut_short
echo vmkd: installed already; nothing was changed. status.cmd tells what there is, uninstall.cmd undoes it.
exit /b 0
:cut_short
echo vmkd: an earlier installation was cut short. Run uninstall.cmd, which undoes what it had done, then install.cmd again.
exit /b 3
:no_journal

set "BUILD="
for /f "tokens=1-3" %%a in ('reg query "HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion" /v CurrentBuildNumber') do if /i "%%a"=="CurrentBuildNumber" set "BUILD=%%c"
if not defined BUILD set "BUILD=0"
set "WAY="
if %BUILD% geq 2600 if %BUILD% leq 3790 set "WAY=bootini"
if %BUILD% geq 6000 if %BUILD% leq 7601 set "WAY=dbgtransport"
if %BUILD% geq 9200 set "WAY=kdcom"
if defined WAY goto :build_known
echo vmkd: Windows build "%BUILD%" is not known; expected 2600 to 3790 (XP, 2003), 6000 to 7601 (Vista, 7), or 9200 and later.
exit /b 1
:build_known
echo vmkd: Windows build %BUILD%, %ARCH%.

rem Registry data: REG_DWORD 0x1 when the firmware checks signatures. The key is absent elsewhere.
set "SECURE_BOOT="
for /f "tokens=1-3" %%a in ('reg query HKLM\SYSTEM\CurrentControlSet\Control\SecureBoot\State /v UEFISecureBootEnabled 2^>nul') do if /i "%%a"=="UEFISecureBootEnabled" set "SECURE_BOOT=%%c"
if not defined SECURE_BOOT goto :no_secure_boot
if "%SECURE_BOOT%"=="0x0" goto :no_secure_boot
echo vmkd: Secure Boot is on. Windows then ignores test signing. Turn it off in the VM's firmware (or use OVMF without it), then run this again.
exit /b 1
:no_secure_boot

rem -p makes manage-bde say by its exit status whether the volume is protected: 0 is yes.
if not exist "%SYSTEM32%\manage-bde.exe" goto :no_bitlocker
manage-bde -status %SystemDrive% -p >nul 2>nul
if not "%errorlevel%"=="0" goto :no_bitlocker
if defined WANT_BITLOCKER goto :no_bitlocker
echo vmkd: WARNING: BitLocker protects %SystemDrive%. A changed boot entry can make it ask for the recovery key at the next start.
echo vmkd: Have that key at hand, or suspend it:  manage-bde -protectors -disable %SystemDrive%
echo vmkd: Then run install.cmd again, with /bitlocker if it is still on.
exit /b 1
:no_bitlocker

sc query vmkd >nul 2>nul
if "%errorlevel%"=="0" goto :service_taken
if exist "%SYSTEM32%\drivers\vmkd.sys" set "TAKEN=%SYSTEM32%\drivers\vmkd.sys"& goto :file_taken
if defined ONLY_DRIVER goto :begin
if exist "%SYSTEM32%\kdvmkd.dll" set "TAKEN=%SYSTEM32%\kdvmkd.dll"& goto :file_taken
if exist "%SYSTEM32%\kdcom_vmkd_original.dll" set "TAKEN=%SYSTEM32%\kdcom_vmkd_original.dll"& goto :file_taken
goto :check_%WAY%
:service_taken
echo vmkd: there is a service "vmkd" already, and no journal of ours. Remove it first:  sc delete vmkd
exit /b 1
:file_taken
echo vmkd: %TAKEN% is there already, and no journal of ours. If you know where it is from, remove it and run this again.
exit /b 1

:check_bootini
set "BOOTDRIVE="
for /f "tokens=1-3" %%a in ('reg query HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Setup /v BootDir 2^>nul') do if /i "%%a"=="BootDir" set "BOOTDRIVE=%%c"
if not defined BOOTDRIVE set "BOOTDRIVE=%SystemDrive%\"
set "BOOTINI=%BOOTDRIVE:~0,2%\boot.ini"
set "DEVICE="
for /f "tokens=1-3" %%a in ('reg query HKLM\SYSTEM\CurrentControlSet\Control /v SystemBootDevice 2^>nul') do if /i "%%a"=="SystemBootDevice" set "DEVICE=%%c"
if defined DEVICE goto :device_known
echo vmkd: the registry does not say which device Windows booted from (Control\SystemBootDevice), so the line of boot.ini is not known.
exit /b 1
:device_known
set "OURPATH=%DEVICE%%SystemRoot:~2%"
if not exist "%BOOTINI%" echo vmkd: %BOOTINI% is not there; nothing was changed.& exit /b 1
find /i "/DEBUGPORT=vmkd" <"%BOOTINI%" >nul
if "%errorlevel%"=="0" goto :line_taken
set "ENTRIES=0"
set "FOUND="
set "OPTIONS="
for /f "tokens=1* delims=]" %%a in ('find /n /v "" ^<"%BOOTINI%"') do (
	set "LINE=%%b"
	call :read_boot_line
)
if "%FOUND%"=="yes" goto :line_known
echo vmkd: %BOOTINI% has no line of the form  %OURPATH%="NAME" /OPTIONS ; nothing was changed.
exit /b 1
:line_taken
echo vmkd: %BOOTINI% has an entry with /DEBUGPORT=vmkd already, and no journal of ours. Remove that line first.
exit /b 1
:line_known
if %ENTRIES% lss 10 goto :begin
echo vmkd: %BOOTINI% has %ENTRIES% entries, and the boot menu shows ten. Remove one first.
exit /b 1

:check_dbgtransport
:check_kdcom
rem The name is how an entry is found again when this is cut short just after making it.
call :find_named_entry
if not defined NAMED goto :check_name_done
echo vmkd: there is a boot entry "%ENTRY_NAME%" %NAMED% already, and no journal of ours. Remove it first:  bcdedit /delete %NAMED%
exit /b 1
:check_name_done
set "ID="
for /f "tokens=1-3 delims={}" %%a in ('bcdedit /enum {current} /v') do (
	set "T1=%%a"
	set "T2=%%b"
	set "T3=%%c"
	call :take_id
)
if defined ID goto :current_known
echo vmkd: bcdedit does not name the boot entry that this Windows was started with; nothing was changed.
exit /b 1
:current_known
set "CURRENT=%ID%"
if not defined WANT_TIMEOUT goto :timeout_checked
reg query %BOOTMGR% >nul 2>nul
if not "%errorlevel%"=="0" goto :no_time
:timeout_checked
if not "%WAY%"=="kdcom" goto :begin
if not exist "%SYSTEM32%\kdcom.dll" echo vmkd: %SYSTEM32%\kdcom.dll is missing; nothing was changed.& exit /b 1
set "ORIGINAL_DEBUG="
for /f "tokens=1-3" %%a in ('reg query HKLM\BCD00000000\Objects\%CURRENT%\Elements\260000a0 /v Element 2^>nul') do if /i "%%a"=="Element" set "ORIGINAL_DEBUG=%%c"
if not "%ORIGINAL_DEBUG%"=="01" goto :begin
echo vmkd: the boot entry in use has debugging on, through kdcom.dll. This replaces kdcom.dll, so that entry would not start any more.
echo vmkd: Turn debugging off in it first:  bcdedit /debug {current} off
exit /b 1

:not_admin
echo vmkd: this needs an administrator. Start cmd with "Run as administrator", then run install.cmd in it.
exit /b 1
:no_time
echo vmkd: the boot menu's time cannot be read (%BOOTMGR%), so it could not be put back; run this without /timeout.
exit /b 1

rem ---- The changes ----------------------------------------------------------------------------------------------------
:begin
set "WHAT=making %KEEP%"
if exist "%KEEP%\" goto :have_keep
md "%KEEP%"
if not exist "%KEEP%\" goto :failed
:have_keep
set "WHAT=writing %JOURNAL%"
call :note keep
if not "%errorlevel%"=="0" goto :failed

set "WHAT=copying vmkd.sys"
call :note file System32\drivers\vmkd.sys
if not "%errorlevel%"=="0" goto :failed
call :put "%SYS%" "%SYSTEM32%\drivers\vmkd.sys"
if not "%errorlevel%"=="0" goto :failed
set "WHAT=registering the service vmkd"
call :note service
if not "%errorlevel%"=="0" goto :failed
sc create vmkd binPath= \SystemRoot\System32\drivers\vmkd.sys type= kernel start= demand error= normal DisplayName= "vmkd kernel debugging transport" >nul
if not "%errorlevel%"=="0" goto :failed
set "WHAT=registering the event source vmkd"
call :note eventlog
if not "%errorlevel%"=="0" goto :failed
reg add HKLM\SYSTEM\CurrentControlSet\Services\EventLog\System\vmkd /v EventMessageFile /t REG_EXPAND_SZ /d %%SystemRoot%%\System32\drivers\vmkd.sys /f >nul
if not "%errorlevel%"=="0" goto :failed
reg add HKLM\SYSTEM\CurrentControlSet\Services\EventLog\System\vmkd /v TypesSupported /t REG_DWORD /d 7 /f >nul
if not "%errorlevel%"=="0" goto :failed
if "%WAY%"=="bootini" goto :certified

set "WHAT=adding the test certificate"
set "THUMBPRINT="
set /p THUMBPRINT=<"%MEDIUM%vmkd-test.id"
if not defined THUMBPRINT goto :failed
call :trust Root
if not "%errorlevel%"=="0" goto :failed
call :trust TrustedPublisher
if not "%errorlevel%"=="0" goto :failed
:certified
if defined ONLY_DRIVER goto :finish
goto :change_%WAY%

:change_bootini
set "WHAT=copying kdvmkd.dll"
call :note file System32\kdvmkd.dll
if not "%errorlevel%"=="0" goto :failed
call :put "%DLL%" "%SYSTEM32%\kdvmkd.dll"
if not "%errorlevel%"=="0" goto :failed
set "WHAT=changing %BOOTINI%"
call :attributes_of "%BOOTINI%"
if not "%errorlevel%"=="0" goto :failed
call :note bootini %BOOTINI% "%ATTRIBUTES%"
if not "%errorlevel%"=="0" goto :failed
attrib -r -s -h "%BOOTINI%"
if not "%errorlevel%"=="0" goto :failed
call :put "%BOOTINI%" "%KEEP%\boot.ini.before"
if not "%errorlevel%"=="0" goto :failed
call :write_boot_lines >"%KEEP%\boot.ini.after"
find "/DEBUGPORT=vmkd" <"%KEEP%\boot.ini.after" >nul
if not "%errorlevel%"=="0" goto :failed
call :put "%KEEP%\boot.ini.after" "%BOOTINI%.vmkd"
if not "%errorlevel%"=="0" goto :failed
move /y "%BOOTINI%.vmkd" "%BOOTINI%" >nul
fc /b "%KEEP%\boot.ini.after" "%BOOTINI%" >nul
if not "%errorlevel%"=="0" goto :failed
attrib %ATTRIBUTES% "%BOOTINI%"
if not "%errorlevel%"=="0" goto :failed
goto :finish

:change_dbgtransport
set "WHAT=copying kdvmkd.dll"
call :note file System32\kdvmkd.dll
if not "%errorlevel%"=="0" goto :failed
call :put "%DLL%" "%SYSTEM32%\kdvmkd.dll"
if not "%errorlevel%"=="0" goto :failed
set "MODULE=kdvmkd.dll"
call :make_entry
if not "%errorlevel%"=="0" goto :failed
goto :menu

:change_kdcom
set "MODULE=kdcom.dll"
call :make_entry
if not "%errorlevel%"=="0" goto :failed
set "WHAT=replacing kdcom.dll"
call :put "%DLL%" "%KEEP%\kdvmkd.dll"
if not "%errorlevel%"=="0" goto :failed
icacls "%SYSTEM32%\kdcom.dll" /save "%KEEP%\kdcom.acl" >nul
if not "%errorlevel%"=="0" goto :failed
call :note owner kdcom.dll
if not "%errorlevel%"=="0" goto :failed
takeown /f "%SYSTEM32%\kdcom.dll" /a >nul
if not "%errorlevel%"=="0" goto :failed
icacls "%SYSTEM32%\kdcom.dll" /grant *S-1-5-32-544:F >nul
if not "%errorlevel%"=="0" goto :failed
call :note kdcom
if not "%errorlevel%"=="0" goto :failed
call :put "%DLL%" "%SYSTEM32%\kdcom_vmkd_new.dll"
if not "%errorlevel%"=="0" goto :failed
rem A second name for the original, then one rename over the first: there is a kdcom.dll at every moment.
mklink /h "%SYSTEM32%\kdcom_vmkd_original.dll" "%SYSTEM32%\kdcom.dll" >nul
if not exist "%SYSTEM32%\kdcom_vmkd_original.dll" goto :failed
move /y "%SYSTEM32%\kdcom_vmkd_new.dll" "%SYSTEM32%\kdcom.dll" >nul
fc /b "%KEEP%\kdvmkd.dll" "%SYSTEM32%\kdcom.dll" >nul
if not "%errorlevel%"=="0" goto :failed

:menu
if not defined WANT_DEFAULT goto :menu_timeout
set "WHAT=making the entry the default"
set "ID="
for /f "tokens=1-3 delims={}" %%a in ('bcdedit /enum {default} /v') do (
	set "T1=%%a"
	set "T2=%%b"
	set "T3=%%c"
	call :take_id
)
if not defined ID goto :failed
call :note default %ID%
if not "%errorlevel%"=="0" goto :failed
bcdedit /default %ENTRY% >nul
if not "%errorlevel%"=="0" goto :failed
:menu_timeout
if not defined WANT_TIMEOUT goto :finish
set "WHAT=setting the boot menu's time"
set "SECONDS=none"
for /f "tokens=1-3" %%a in ('reg query %BOOTMGR%\25000004 /v Element 2^>nul') do if /i "%%a"=="Element" set "SECONDS=%%c"
call :note timeout %SECONDS% %WANT_TIMEOUT%
if not "%errorlevel%"=="0" goto :failed
bcdedit /timeout %WANT_TIMEOUT% >nul
if not "%errorlevel%"=="0" goto :failed

:finish
set "WHAT=completing the journal"
call :note done
if not "%errorlevel%"=="0" goto :failed
echo vmkd: installed. uninstall.cmd of this medium undoes it.
if defined ONLY_DRIVER goto :tell_driver
if "%WAY%"=="bootini" echo vmkd: start the VM again and choose "%ENTRY_NAME%" in the boot menu.
if "%WAY%"=="dbgtransport" echo vmkd: start the VM again and choose "%ENTRY_NAME%" in the boot menu (test signing is on in it).
if not "%WAY%"=="kdcom" goto :tell_driver
echo vmkd: At EACH start: choose "%ENTRY_NAME%", press F8, then "Disable driver signature enforcement" (F7). Without it this
echo vmkd: entry does not start; the old entry is as it was.
echo vmkd: A shutdown from the Start menu may only hibernate (Fast Startup), and no menu comes then. Use  shutdown /s /t 0  or  /r.
if %BUILD% geq 22000 echo vmkd: NOT TRIED: Windows 11 with more than 4 GiB of RAM, and 24H2 (early builds of it crash with any replaced kdcom.dll).
:tell_driver
echo vmkd: In a Windows started with /debug on another transport:  sc start vmkd
echo vmkd: No Microsoft Windows was at hand when this was written: docs/guest.md of the vmkd sources says what was tested, and how.
exit /b 0

:failed
echo vmkd: FAILED: %WHAT%. What was changed is undone now.
call "%MEDIUM%uninstall.cmd" /quiet
if not "%errorlevel%"=="0" exit /b 3
exit /b 2

rem ---- Subroutines ------------------------------------------------------------------------------------------------------
rem One line of the journal: keyword and two data, "-" where there is none.
:note
set "DATA1=%~2"
set "DATA2=%~3"
if not defined DATA1 set "DATA1=-"
if not defined DATA2 set "DATA2=-"
>>"%JOURNAL%" echo %~1*%DATA1%*%DATA2%*end
set "LAST="
for /f "usebackq delims=" %%l in ("%JOURNAL%") do set "LAST=%%l"
if not "%LAST%"=="%~1*%DATA1%*%DATA2%*end" exit /b 1
exit /b 0

rem Copies a file; exit status 0 when the copy is the file.
:put
copy /y /b %1 %2 >nul
fc /b %1 %2 >nul
exit /b %errorlevel%

rem Adds the test certificate to the machine's store %1, unless it is there.
:trust
certutil -store %1 %THUMBPRINT% >nul 2>nul
if "%errorlevel%"=="0" exit /b 0
call :note cert %1 %THUMBPRINT%
if not "%errorlevel%"=="0" exit /b 1
certutil -addstore %1 "%MEDIUM%vmkd-test.cer" >nul
if not "%errorlevel%"=="0" exit /b 1
exit /b 0

rem T1 to T3 are pieces of a line between braces. The first GUID that is seen becomes ID; everything else is anybody's words.
rem Quotes become bars, so that nothing in them can end a quotation of ours.
:take_id
if not defined ID if defined T1 call :take_1
if not defined ID if defined T2 call :take_2
if not defined ID if defined T3 call :take_3
exit /b 0
:take_1
set "T=%T1:"=|%"
goto :take_one
:take_2
set "T=%T2:"=|%"
goto :take_one
:take_3
set "T=%T3:"=|%"
:take_one
for /f "tokens=1-5 delims=%HEX%" %%p in ("%T%") do if "%%p%%q%%r%%s*%%t"=="----*" goto :take_shape
exit /b 0
:take_shape
rem Hexadecimal digits and four dashes: now it may be cut up without quotes. 8-4-4-4-12.
if "%T:~8,1%%T:~13,1%%T:~18,1%%T:~23,1%%T:~36,1%"=="----" if not "%T:~35,1%"=="" set "ID={%T%}"
exit /b 0

rem NAMED becomes the GUID of a loader entry with our name, or nothing.
:find_named_entry
set "NAMED="
for /f "tokens=1-3 delims={}" %%a in ('bcdedit /enum osloader /v') do (
	set "ID="
	set "T1=%%a"
	set "T2=%%b"
	set "T3=%%c"
	call :take_id
	call :is_named
)
exit /b 0
:is_named
if not defined ID exit /b 0
bcdedit /enum %ID% /v 2>nul | find "%ENTRY_NAME%" >nul
if "%errorlevel%"=="0" set "NAMED=%ID%"
exit /b 0

rem A copy of the entry in use, with debugging through MODULE. docs/guest.md has the elements behind the names.
:make_entry
set "WHAT=copying the boot entry"
call :note entry
if not "%errorlevel%"=="0" exit /b 1
set "ID="
for /f "tokens=1-3 delims={}" %%a in ('bcdedit /copy {current} /d "%ENTRY_NAME%"') do (
	set "T1=%%a"
	set "T2=%%b"
	set "T3=%%c"
	call :take_id
)
if not defined ID exit /b 1
set "ENTRY=%ID%"
call :note entry %ENTRY%
if not "%errorlevel%"=="0" exit /b 1
set "WHAT=setting up the boot entry"
bcdedit /set %ENTRY% debug on >nul
if not "%errorlevel%"=="0" exit /b 1
bcdedit /set %ENTRY% dbgtransport %MODULE% >nul
if not "%errorlevel%"=="0" exit /b 1
bcdedit /set %ENTRY% testsigning on >nul
if not "%errorlevel%"=="0" exit /b 1
call :set_if_known custom:26000027 on
if "%WAY%"=="dbgtransport" goto :entry_shown
bcdedit /set %ENTRY% bootmenupolicy legacy >nul
if not "%errorlevel%"=="0" exit /b 1
call :set_if_known recoveryenabled off
call :set_if_known debugtype serial
call :set_if_known busparams ""
if %BUILD% geq 22000 call :set_if_known nointegritychecks on
:entry_shown
bcdedit /displayorder %ENTRY% /addlast >nul
if not "%errorlevel%"=="0" exit /b 1
exit /b 0
rem What some builds do without, or do not know.
:set_if_known
bcdedit /set %ENTRY% %1 %2 >nul 2>nul
if not "%errorlevel%"=="0" echo vmkd: note: bcdedit does not take %1 %2 here; going on without it.
exit /b 0

rem The attributes of a file, as attrib takes them. Letters in the first eleven columns on XP and 2003, in every language.
:attributes_of
set "LINE="
set "ATTRIBUTES="
for /f "delims=" %%l in ('attrib "%~1"') do set "LINE=%%l"
if not defined LINE exit /b 1
set "COLUMNS=%LINE:~0,11%"
for %%l in (A R S H) do call :attribute %%l
exit /b 0
:attribute
call set "WITHOUT=%%COLUMNS:%1=%%"
if "%WITHOUT%"=="%COLUMNS%" set "ATTRIBUTES=%ATTRIBUTES% -%1"
if not "%WITHOUT%"=="%COLUMNS%" set "ATTRIBUTES=%ATTRIBUTES% +%1"
exit /b 0

rem LINE is a line of boot.ini: counts entries, finds ours and its options. Quotes become bars, which makes it safe to handle.
:read_boot_line
if not defined LINE exit /b 0
set "BARS=%LINE:"=|%"
for /f "tokens=1-3 delims=|" %%a in ("%BARS%") do (
	set "PART1=%%a"
	set "PART2=%%b"
	set "PART3=%%c"
)
if not defined PART2 exit /b 0
set /a ENTRIES=ENTRIES+1
if defined FOUND exit /b 0
if /i not "%PART1%"=="%OURPATH%=" exit /b 0
set "FOUND=bad"
if defined PART3 if not "%PART3:~0,2%"==" /" exit /b 0
set "OPTIONS=%PART3%"
set "FOUND=yes"
exit /b 0

rem boot.ini with our line added, to standard output. The boot menu's default is the first line with the default's path.
:write_boot_lines
set "ADDED="
for /f "tokens=1* delims=]" %%a in ('find /n /v "" ^<"%BOOTINI%"') do (
	set "LINE=%%b"
	call :boot_line
	if defined ABOVE call :our_line
	if not defined REPLACED echo.%%b
	if defined BELOW call :our_line
)
exit /b 0
:boot_line
set "ABOVE="
set "BELOW="
set "REPLACED="
if not defined LINE exit /b 0
set "BARS=%LINE:"=|%"
if defined WANT_TIMEOUT if /i "%BARS:~0,8%"=="timeout=" set "REPLACED=1"& echo timeout=%WANT_TIMEOUT%
if defined ADDED exit /b 0
for /f "tokens=1 delims=|" %%a in ("%BARS%") do set "PART1=%%a"
if /i not "%PART1%"=="%OURPATH%=" exit /b 0
set "ADDED=1"
if defined WANT_DEFAULT set "ABOVE=1"
if not defined WANT_DEFAULT set "BELOW=1"
exit /b 0
rem The boot loader takes the first /DEBUGPORT of a line, so ours come before the entry's own.
:our_line
echo %OURPATH%="%ENTRY_NAME%" /DEBUG /DEBUGPORT=vmkd%OPTIONS%
exit /b 0
